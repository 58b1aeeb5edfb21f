package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// Streams are a client's ends of an exec or an attach. In, Out and Err are nil if the client did not ask for them.
type Streams struct {
	In       io.Reader
	Out, Err io.WriteCloser
	TTY      bool
	// Resize carries the sizes of the client's terminal; with TTY its end means that the client is gone.
	Resize <-chan remotecommand.TerminalSize
}

// Exec runs argv in the container and returns when it has ended and its output is delivered. An exit code other than
// 0 is a utilexec.CodeExitError.
func (c *Container) Exec(argv []string, s Streams) error {
	if len(argv) == 0 {
		return errors.New("no command")
	}
	if !c.Running() {
		return errors.New("container is not running")
	}
	cmd := c.command(argv)
	if s.TTY {
		return execOnTerminal(cmd, s)
	}
	return execOnPipes(cmd, s)
}

func execOnPipes(cmd *exec.Cmd, s Streams) error {
	if s.Out != nil {
		cmd.Stdout = s.Out
	}
	if s.Err != nil {
		cmd.Stderr = s.Err
	}
	if s.In != nil {
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		// Not cmd.Stdin: Wait would then wait for the client to end its input, which it may never do.
		defer stdin.Close()
		if err := spawn(cmd, false); err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(stdin, s.In)
			stdin.Close()
		}()
	} else if err := spawn(cmd, false); err != nil {
		return err
	}
	return result(cmd, cmd.Wait())
}

func execOnTerminal(cmd *exec.Cmd, s Streams) error {
	cmd.Env = append(cmd.Env, "TERM=xterm")
	terminal, err := spawnOnTerminal(cmd)
	if err != nil {
		return err
	}
	defer terminal.Close()
	if s.In != nil {
		go func() { _, _ = io.Copy(terminal, s.In) }()
	}
	go func() {
		if resize(terminal, s.Resize) {
			// As when a terminal window is closed. Through Process, which knows if it has ended and its id is another's.
			_ = cmd.Process.Signal(syscall.SIGHUP)
		}
	}()
	// The copy ends when the last process on the terminal has closed it; everything written before is then delivered.
	if s.Out != nil {
		_, _ = io.Copy(s.Out, terminal)
	} else {
		_, _ = io.Copy(io.Discard, terminal)
	}
	return result(cmd, cmd.Wait())
}

// resize applies sizes until the channel ends, and tells whether there was one at all (SPDY protocols before v3 have
// none).
func resize(terminal *os.File, sizes <-chan remotecommand.TerminalSize) bool {
	if sizes == nil {
		return false
	}
	for size := range sizes {
		_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
	}
	return true
}

func result(cmd *exec.Cmd, err error) error {
	if cmd.ProcessState == nil {
		return err
	}
	if exit := exitOf(cmd.ProcessState); exit.Code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", exit.Code), Code: exit.Code}
	}
	// Output that could not be delivered to a client that is gone is not the command's failure.
	return nil
}

// Attach connects a client to the container's main process until that ends or the client is gone.
func (c *Container) Attach(ctx context.Context, s Streams) error {
	if !c.Running() {
		return errors.New("container is not running")
	}
	gone := make(chan struct{}, 1)
	leave := func() {
		select {
		case gone <- struct{}{}:
		default:
		}
	}
	// Outputs first: the answer to the first input must find its reader.
	var outGone, errGone <-chan struct{}
	if s.Out != nil {
		a := c.stdout.attach(s.Out)
		defer c.stdout.detach(a)
		outGone = a.gone
	}
	if s.Err != nil {
		a := c.stderr.attach(s.Err)
		defer c.stderr.detach(a)
		errGone = a.gone
	}
	if s.TTY && c.terminal != nil {
		go func() {
			if resize(c.terminal, s.Resize) {
				leave()
			}
		}()
	}
	if s.In != nil && c.stdin != nil {
		go func() {
			_, err := io.Copy(c.stdin, s.In)
			if err != nil {
				leave()
			} else if c.spec.StdinOnce && c.terminal == nil {
				c.stdin.close()
			}
		}()
	}
	select {
	case <-c.done:
	case <-gone:
	case <-outGone:
	case <-errGone:
	case <-ctx.Done():
	}
	return nil
}
