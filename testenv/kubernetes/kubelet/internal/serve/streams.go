package serve

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/util/httpstream/wsstream"
	"k8s.io/apimachinery/pkg/util/proxy"
	translator "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// exec, attach and portForward do what a real kubelet does: they ask the streaming server for a one-time URL and proxy
// the upgraded connection to it. WebSocket (what kube-apiserver 1.36 passes on to nodes that declare the feature) is
// translated to SPDY by Kubernetes's own handlers, SPDY is passed on as it is.

// container names the container that a request is for and says what is to be streamed, or answers why not.
func (s *Server) container(w http.ResponseWriter, r *http.Request) (string, *remotecommand.Options, bool) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return "", nil, false
	}
	run, err := s.options.Table.Run(podOf(r), r.PathValue("container"), false)
	if err != nil {
		refuse(w, err)
		return "", nil, false
	}
	return run.ID(), options, true
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	container, options, ok := s.container(w, r)
	if !ok {
		return
	}
	response, err := s.streams.GetExec(&runtimeapi.ExecRequest{
		ContainerId: container,
		Cmd:         r.Form["command"],
		Tty:         options.TTY,
		Stdin:       options.Stdin,
		Stdout:      options.Stdout,
		Stderr:      options.Stderr,
	})
	if err != nil {
		refuseStream(w, err)
		return
	}
	remoteCommand(w, r, response.Url, options)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	container, options, ok := s.container(w, r)
	if !ok {
		return
	}
	response, err := s.streams.GetAttach(&runtimeapi.AttachRequest{
		ContainerId: container,
		Tty:         options.TTY,
		Stdin:       options.Stdin,
		Stdout:      options.Stdout,
		Stderr:      options.Stderr,
	})
	if err != nil {
		refuseStream(w, err)
		return
	}
	remoteCommand(w, r, response.Url, options)
}

func remoteCommand(w http.ResponseWriter, r *http.Request, target string, options *remotecommand.Options) {
	location, err := url.Parse(target)
	if err != nil {
		refuse(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		translator.NewStreamTranslatorHandler(location, nil, 0, translator.Options{
			Stdin:  options.Stdin,
			Stdout: options.Stdout,
			Stderr: options.Stderr,
			Tty:    options.TTY,
		}).ServeHTTP(w, r)
		return
	}
	upgradeTo(location).ServeHTTP(w, r)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	tunnelled := wsstream.IsWebSocketRequestWithTunnelingProtocol(r)
	// A tunnel carries SPDY, whose streams name their ports themselves; the older WebSocket protocol has them in the URL.
	options := &portforward.V4Options{}
	if !tunnelled {
		var err error
		if options, err = portforward.NewV4Options(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	uid, err := s.options.Table.Pod(podOf(r))
	if err != nil {
		refuse(w, err)
		return
	}
	response, err := s.streams.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: string(uid), Port: options.Ports})
	if err != nil {
		refuseStream(w, err)
		return
	}
	location, err := url.Parse(response.Url)
	if err != nil {
		refuse(w, err)
		return
	}
	var handler http.Handler = upgradeTo(location)
	if tunnelled {
		handler = translator.NewTunnelingHandler(handler)
	}
	handler.ServeHTTP(w, r)
}

func upgradeTo(location *url.URL) http.Handler {
	return proxy.NewUpgradeAwareHandler(location, nil, false, true, responder{})
}

func refuseStream(w http.ResponseWriter, err error) {
	if writeErr := streaming.WriteError(err, w); writeErr != nil && !errors.Is(writeErr, http.ErrHandlerTimeout) {
		slog.Warn("error not delivered", "error", writeErr)
	}
}

// responder reports what the proxy could not do.
type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
