package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const deadline = 20 * time.Second

func start(t *testing.T, script string, change func(*Spec)) *Container {
	t.Helper()
	spec := Spec{
		ID:   t.Name() + t.TempDir(),
		Argv: []string{"sh", "-c", script},
		Env:  []string{"PATH=" + os.Getenv("PATH")},
		Dir:  t.TempDir(),
		Log:  filepath.Join(t.TempDir(), "log"),
	}
	if change != nil {
		change(&spec)
	}
	c, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Kill()
		wait(t, c)
	})
	return c
}

func wait(t *testing.T, c *Container) Exit {
	t.Helper()
	select {
	case <-c.Done():
		return c.Exit()
	case <-time.After(deadline):
		t.Fatal("the container did not end")
		return Exit{}
	}
}

// buffer is a client's writer, which closing does not end.
type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func TestExitCodes(t *testing.T) {
	if exit := wait(t, start(t, "exit 3", nil)); exit.Code != 3 || exit.Signal != 0 {
		t.Errorf("exit %+v", exit)
	}
	if exit := wait(t, start(t, "kill -TERM $$", nil)); exit.Code != 143 || exit.Signal != 15 {
		t.Errorf("exit %+v", exit)
	}
}

func TestWhatEscapesTheGroupEndsWithTheContainer(t *testing.T) {
	// The pipe makes the main process end only once the other one is in a session of its own.
	c := start(t, "mkfifo up; setsid sh -c 'echo > up; exec sleep 1000' & read line < up; exit 0", nil)
	wait(t, c)
	if kill([]byte(marker+"="+c.ID())) != 0 {
		t.Error("a process of the container outlived it")
	}
}

func TestExecSeparatesStreamsAndReportsTheCode(t *testing.T) {
	c := start(t, "exec sleep 1000", nil)
	var out, errs buffer
	err := c.Exec([]string{"sh", "-c", "cat; echo oops >&2; exit 9"},
		Streams{In: strings.NewReader("input"), Out: &out, Err: &errs})
	var code utilexec.CodeExitError
	if !errors.As(err, &code) || code.Code != 9 {
		t.Errorf("error %v", err)
	}
	if out.String() != "input" || errs.String() != "oops\n" {
		t.Errorf("out %q, err %q", out.String(), errs.String())
	}
}

func TestExecDoesNotWaitForInputThatNeverEnds(t *testing.T) {
	c := start(t, "exec sleep 1000", nil)
	in, _ := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- c.Exec([]string{"true"}, Streams{In: in}) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Error("exec waits for its client")
	}
}

func TestExecOnATerminalIsHungUp(t *testing.T) {
	c := start(t, "exec sleep 1000", nil)
	var out buffer
	sizes := make(chan remotecommand.TerminalSize, 1)
	sizes <- remotecommand.TerminalSize{Width: 90, Height: 33}
	close(sizes)
	err := c.Exec([]string{"sh", "-c", "exec sleep 1000"}, Streams{Out: &out, TTY: true, Resize: sizes})
	var code utilexec.CodeExitError
	if !errors.As(err, &code) || code.Code != 129 {
		t.Errorf("error %v, want the exit code of SIGHUP", err)
	}
}

func TestStdinOnceEndsWithTheFirstClient(t *testing.T) {
	c := start(t, "cat; exit 4", func(s *Spec) { s.Stdin, s.StdinOnce = true, true })
	var out buffer
	if err := c.Attach(context.Background(), Streams{In: strings.NewReader("all"), Out: &out}); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Code != 4 || out.String() != "all" {
		t.Errorf("exit %+v, output %q", exit, out.String())
	}
}

func TestAnAttachedClientThatIsGoneDoesNotStopTheOutput(t *testing.T) {
	c := start(t, "read go; echo one; echo two", func(s *Spec) { s.Stdin = true })
	reader, writer := io.Pipe()
	reader.Close()
	done := make(chan error, 1)
	go func() {
		done <- c.Attach(context.Background(), Streams{In: strings.NewReader("go\n"), Out: writer})
	}()
	wait(t, c)
	if err := <-done; err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(c.Log())
	if err != nil || strings.Count(string(log), "\n") != 2 {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestACommandIsNeeded(t *testing.T) {
	if _, err := Start(Spec{Log: filepath.Join(t.TempDir(), "log")}); err == nil || !strings.Contains(err.Error(), "command") {
		t.Errorf("error %v", err)
	}
}
