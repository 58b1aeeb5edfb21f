package serve

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/util/flushwriter"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	// Registers how a query becomes PodLogOptions; clients need only the other direction, so client-go has no such thing.
	_ "k8s.io/kubernetes/pkg/apis/core/install"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/pods"
)

// logs answers /containerLogs with Kubernetes's own log reader.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	options := &v1.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(r.URL.Query(), v1.SchemeGroupVersion, options); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	run, err := s.options.Table.Run(podOf(r), r.PathValue("container"), options.Previous)
	if err != nil {
		refuse(w, err)
		return
	}
	stdout, stderr := split(flushwriter.Wrap(w), options.Stream)
	err = logs.ReadLogs(r.Context(), run.Log(), run.ID(), selection(options, time.Now()),
		&states{table: s.options.Table}, stdout, stderr)
	if err != nil && r.Context().Err() == nil {
		// The answer has begun; all that is left is to end it in a way that the reader notices.
		slog.Warn("log reading ended early", "container", run.ID(), "error", err)
		panic(http.ErrAbortHandler)
	}
}

// selection is the part of the log that the caller asked for.
func selection(o *v1.PodLogOptions, now time.Time) *logs.LogOptions {
	selected := &logs.LogOptions{
		TailLines:  o.TailLines,
		LimitBytes: o.LimitBytes,
		Follow:     o.Follow,
		Timestamp:  o.Timestamps,
	}
	switch {
	case o.SinceSeconds != nil:
		selected.Since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	case o.SinceTime != nil:
		selected.Since = o.SinceTime.Time
	}
	return selected
}

// split gives each wanted stream the same writer, and the other none.
func split(w io.Writer, wanted *string) (stdout, stderr io.Writer) {
	switch {
	case wanted == nil || *wanted == v1.LogStreamAll:
		return w, w
	case *wanted == v1.LogStreamStdout:
		return w, nil
	case *wanted == v1.LogStreamStderr:
		return nil, w
	}
	return nil, nil
}

// states answers the one question that the log reader asks the container runtime: does it still run? The other
// methods of the interface are not there to be called.
type states struct {
	cri.RuntimeService
	table *pods.Table
}

func (s *states) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	// A container that is forgotten has ended as well.
	if run, err := s.table.ByID(id); err == nil && run.Running() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: id, State: state}}, nil
}
