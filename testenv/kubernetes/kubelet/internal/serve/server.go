// Package serve is the kubelet's HTTPS API, as far as kube-apiserver uses it for pods.
package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/pods"
)

// headerTimeout bounds a caller that connects and says nothing.
const headerTimeout = 10 * time.Second

// Options say who may call and with which certificate to answer.
type Options struct {
	Certificate tls.Certificate
	// ClientCA signs the caller's certificate, whose common name must be ClientName. The authority also signs
	// users' certificates, and they have no business here.
	ClientCA   *x509.CertPool
	ClientName string
	Table      *pods.Table
}

// Server answers kube-apiserver.
type Server struct {
	options Options
	// streams is Kubernetes's own streaming server. As in a real node it listens on a plain local port, each of its
	// URLs holds a random token that is good for one request, and requests are proxied to it.
	streams streaming.Server
}

// Run serves on listener until ctx ends.
func Run(ctx context.Context, listener net.Listener, options Options) error {
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	config := streaming.DefaultConfig
	config.Addr = local.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr, Path: "/"}
	streams, err := streaming.NewServer(config, &runtime{options.Table})
	if err != nil {
		return err
	}
	s := &Server{options: options, streams: streams}
	inner := &http.Server{Handler: streams, ReadHeaderTimeout: headerTimeout}
	outer := &http.Server{
		Handler:           s.authenticated(s.routes()),
		ReadHeaderTimeout: headerTimeout,
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{options.Certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    options.ClientCA,
		},
	}
	failed := make(chan error, 2)
	go func() { failed <- inner.Serve(local) }()
	go func() { failed <- outer.ServeTLS(listener, "", "") }()
	defer inner.Close()
	defer outer.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
	}
	return mux
}

// authenticated lets only the API server in.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := r.TLS.PeerCertificates[0].Subject.CommonName; name != s.options.ClientName {
			http.Error(w, fmt.Sprintf("%q may not use this node's API", name), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func podOf(r *http.Request) types.NamespacedName {
	return types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("pod")}
}

// refuse answers with the status that fits the error.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var missing *pods.NotFound
	var early *pods.NotReady
	switch {
	case errors.As(err, &missing):
		code = http.StatusNotFound
	case errors.As(err, &early):
		code = http.StatusBadRequest
	}
	http.Error(w, err.Error(), code)
}
