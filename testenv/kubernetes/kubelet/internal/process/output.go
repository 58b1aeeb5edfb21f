package process

import (
	"io"
	"sync"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/crilog"
)

// output is one stream of a running container: it is logged, and copied to everyone attached. A slow attacher slows
// the container down, as it does with real runtimes; output is never dropped.
type output struct {
	log *crilog.Stream

	mu        sync.Mutex
	attached  map[*attachment]struct{}
	logFailed error
}

// attachment is one attached writer; gone is closed when it no longer takes anything.
type attachment struct {
	w    io.Writer
	gone chan struct{}
}

func newOutput(log *crilog.Stream) *output {
	return &output{log: log, attached: map[*attachment]struct{}{}}
}

// pump copies from r until its end. On a terminal that is an error (EIO) rather than io.EOF, and both mean the same.
func (o *output) pump(r io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Read(buffer)
		if n > 0 {
			o.write(buffer[:n])
		}
		if err != nil {
			_ = o.log.Flush()
			return
		}
	}
}

func (o *output) write(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.logFailed == nil {
		// A full disk must not stop the container; attached clients still see its output.
		_, o.logFailed = o.log.Write(p)
	}
	for a := range o.attached {
		if _, err := a.w.Write(p); err != nil {
			delete(o.attached, a)
			close(a.gone)
		}
	}
}

// attach adds a writer; detach must be called with the result.
func (o *output) attach(w io.Writer) *attachment {
	a := &attachment{w: w, gone: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attached[a] = struct{}{}
	return a
}

func (o *output) detach(a *attachment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.attached, a)
}
