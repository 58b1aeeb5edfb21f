// Package process runs containers and the commands executed in them as ordinary local processes.
package process

import (
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"github.com/creack/pty"
)

// A program that was started with nohup ignores SIGHUP, and so would every process that it starts: a terminal's end
// would end nothing. What is caught, and not ignored, has its ordinary effect in children.
func init() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

// spawner starts every process on one thread that lives as long as the program: the parent-death signal is sent when
// the thread that forked ends, not the process.
var spawner = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// spawn starts cmd as the leader of a session of its own, so that a signal reaches all of its process group, and so
// that it dies with us.
func spawn(cmd *exec.Cmd, controllingTerminal bool) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:    true,
		Setctty:   controllingTerminal,
		Ctty:      0,
		Pdeathsig: syscall.SIGKILL,
	}
	done := make(chan error, 1)
	spawner() <- func() { done <- cmd.Start() }
	return <-done
}

// spawnOnTerminal starts cmd on a new pseudo-terminal and returns our end of it.
func spawnOnTerminal(cmd *exec.Cmd) (*os.File, error) {
	ours, theirs, err := pty.Open()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	if err := spawn(cmd, true); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}
