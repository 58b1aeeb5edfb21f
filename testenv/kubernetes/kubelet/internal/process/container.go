package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/crilog"
)

// Spec says how to run a container.
type Spec struct {
	// ID is unique to this run of the container; a restart gets another.
	ID   string
	Argv []string
	Env  []string
	// Dir is the working directory, of the container and of what is executed in it.
	Dir string
	// Log is the file that output is logged to.
	Log string
	// Stdin keeps standard input open for attaching; StdinOnce closes it when the first attached input ends.
	Stdin, StdinOnce bool
	TTY              bool
}

// Exit is how a container ended.
type Exit struct {
	// Code is 128 + Signal if a signal ended it, as shells and container runtimes have it.
	Code   int
	Signal syscall.Signal
	At     time.Time
}

// Container is a running, or ended, local process that stands for a container.
type Container struct {
	spec    Spec
	Started time.Time

	pid      int
	terminal *os.File
	stdin    *input
	stdout   *output
	stderr   *output

	done chan struct{}
	exit Exit
}

// Start runs a container's process.
func Start(spec Spec) (*Container, error) {
	if len(spec.Argv) == 0 {
		return nil, errors.New("no command: this node runs local processes, not images, so the container needs a command or args")
	}
	file, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	log := crilog.New(file)
	c := &Container{
		spec:    spec,
		Started: time.Now(),
		stdout:  newOutput(log.Stream("stdout")),
		stderr:  newOutput(log.Stream("stderr")),
		done:    make(chan struct{}),
	}
	cmd := c.command(spec.Argv)
	var pumps sync.WaitGroup
	if spec.TTY {
		err = c.startOnTerminal(cmd, &pumps)
	} else {
		err = c.startOnPipes(cmd, &pumps)
	}
	if err != nil {
		log.Close()
		return nil, err
	}
	c.pid = cmd.Process.Pid
	go c.wait(cmd, &pumps, log)
	return c, nil
}

// command prepares a process in the container: its directory, its environment and the marker that ties it to it.
func (c *Container) command(argv []string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = c.spec.Dir
	cmd.Env = append(append([]string{}, c.spec.Env...), marker+"="+c.spec.ID)
	return cmd
}

func (c *Container) startOnTerminal(cmd *exec.Cmd, pumps *sync.WaitGroup) error {
	cmd.Env = append(cmd.Env, "TERM=xterm")
	terminal, err := spawnOnTerminal(cmd)
	if err != nil {
		return err
	}
	c.terminal = terminal
	c.stdin = &input{w: terminal}
	pumps.Go(func() { c.stdout.pump(terminal) })
	return nil
}

func (c *Container) startOnPipes(cmd *exec.Cmd, pumps *sync.WaitGroup) error {
	// Pipes of our own, because those of exec.Cmd are closed by Wait, which may be before they are read to their end.
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer outWrite.Close()
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		outRead.Close()
		return err
	}
	defer errWrite.Close()
	cmd.Stdout, cmd.Stderr = outWrite, errWrite
	var inWrite *os.File
	if c.spec.Stdin {
		var inRead *os.File
		if inRead, inWrite, err = os.Pipe(); err != nil {
			outRead.Close()
			errRead.Close()
			return err
		}
		defer inRead.Close()
		cmd.Stdin = inRead
	}
	if err := spawn(cmd, false); err != nil {
		outRead.Close()
		errRead.Close()
		if inWrite != nil {
			inWrite.Close()
		}
		return err
	}
	if inWrite != nil {
		c.stdin = &input{w: inWrite}
	}
	pumps.Go(func() { defer outRead.Close(); c.stdout.pump(outRead) })
	pumps.Go(func() { defer errRead.Close(); c.stderr.pump(errRead) })
	return nil
}

// wait ends what the main process left behind, as a container runtime does, and records how the container ended once
// all of its output has been delivered.
func (c *Container) wait(cmd *exec.Cmd, pumps *sync.WaitGroup, log *crilog.Log) {
	_ = cmd.Wait()
	_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	sweep(c.spec.ID)
	c.exit = exitOf(cmd.ProcessState)
	pumps.Wait()
	if c.stdin != nil {
		c.stdin.close()
	}
	log.Close()
	close(c.done)
}

func exitOf(state *os.ProcessState) Exit {
	exit := Exit{At: time.Now(), Code: state.ExitCode()}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		exit.Signal = status.Signal()
		exit.Code = 128 + int(status.Signal())
	}
	return exit
}

// ID is the one that the container was started with.
func (c *Container) ID() string { return c.spec.ID }

// Log is the file that the container's output is logged to.
func (c *Container) Log() string { return c.spec.Log }

// Done is closed when the container has ended and its output has been delivered.
func (c *Container) Done() <-chan struct{} { return c.done }

// Running tells whether the container has not ended.
func (c *Container) Running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Exit is how the container ended; it is valid once Done is closed.
func (c *Container) Exit() Exit { return c.exit }

// Terminate asks the container's process group to end.
func (c *Container) Terminate() {
	if c.Running() {
		_ = syscall.Kill(-c.pid, syscall.SIGTERM)
	}
}

// Kill ends every process of the container at once.
func (c *Container) Kill() {
	if c.Running() {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL)
		sweep(c.spec.ID)
	}
}

// input is a container's standard input, shared by everyone attached.
type input struct {
	mu     sync.Mutex
	w      io.WriteCloser
	closed bool
}

// Write implements io.Writer. The lock is not held while writing: a full pipe must not keep others from closing it.
func (i *input) Write(p []byte) (int, error) {
	i.mu.Lock()
	closed := i.closed
	i.mu.Unlock()
	if closed {
		return 0, fmt.Errorf("standard input is closed: %w", io.ErrClosedPipe)
	}
	return i.w.Write(p)
}

func (i *input) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.closed {
		i.closed = true
		i.w.Close()
	}
}
