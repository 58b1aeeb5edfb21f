package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/pods"
	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/process"
)

// dialTimeout bounds the connection to a local port, which answers at once or not at all.
const dialTimeout = 5 * time.Second

// runtime is what the streaming server calls.
type runtime struct {
	table *pods.Table
}

func (r *runtime) Exec(_ context.Context, id string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	run, missing := r.table.ByID(id)
	if missing != nil {
		return missing
	}
	return run.Exec(cmd, process.Streams{In: in, Out: out, Err: err, TTY: tty, Resize: resize})
}

func (r *runtime) Attach(ctx context.Context, id string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	run, missing := r.table.ByID(id)
	if missing != nil {
		return missing
	}
	return run.Attach(ctx, process.Streams{In: in, Out: out, Err: err, TTY: tty, Resize: resize})
}

// PortForward connects a stream to a local port. Each direction ends by itself, so that a peer that has finished
// sending still gets the answer.
func (r *runtime) PortForward(ctx context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	target, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.New("not a TCP connection")
	}
	return join(target, stream)
}

func join(target *net.TCPConn, stream io.ReadWriteCloser) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(target, stream)
		if err == nil {
			err = target.CloseWrite()
		}
		sent <- err
	}()
	_, err := io.Copy(stream, target)
	// Closing a SPDY stream closes our direction of it.
	if closeErr := stream.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	// The target has said everything. What it is still sent is its to refuse, so an error here is not ours to report.
	<-sent
	return nil
}
