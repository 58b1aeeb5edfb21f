// Command supervise owns the processes of one test cluster.
//
// It exists because a test process can be killed at any moment, and may not run code of its own between fork and exec
// (the workspace forbids unsafe code). It reads commands from standard input, one JSON object per line, and reports on
// standard output in the same way. When standard input ends, because the test process closed it or is gone, it ends
// everything that it started, in reverse order, removes the cluster's folder and exits.
//
// Three mechanisms together leave nothing behind:
//   - the end of standard input is noticed however the parent died;
//   - each process is in a process group of its own and has a parent-death signal, so it does not outlive supervise;
//   - supervise is a child subreaper, so processes that lose their parent (a pod's, when the kubelet stand-in is
//     killed) become its children, where it finds and ends them.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// prSetChildSubreaper is PR_SET_CHILD_SUBREAPER of prctl(2), which package syscall does not name.
const prSetChildSubreaper = 36

// maxLine bounds one command; the longest holds an API server's whole command line.
const maxLine = 1 << 20

func init() {
	// A parent-death signal is sent when the *thread* that forked ends. Only the main thread lives as long as the process.
	runtime.LockOSThread()
}

func main() {
	remove := flag.String("remove", "", "folder to remove once every process has ended")
	flag.Parse()
	if err := run(*remove); err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
		os.Exit(1)
	}
}

func run(remove string) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0); errno != 0 {
		return fmt.Errorf("become a child subreaper: %w", errno)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// Reports to a parent that is gone must fail, not kill us; and an ignored signal would be inherited by children.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	commands := make(chan command)
	go read(commands)

	t := newTable(json.NewEncoder(os.Stdout))
	for open := true; open; {
		select {
		case c, ok := <-commands:
			if open = ok; ok {
				t.handle(c)
			}
		case <-children:
			t.reap()
		case <-t.timer():
			t.killOverdue()
		case <-ends:
			open = false
		}
	}
	t.endAll(children)
	if remove != "" {
		return os.RemoveAll(remove)
	}
	return nil
}

// read decodes commands until standard input ends, then closes the channel.
func read(commands chan<- command) {
	defer close(commands)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			// The only writer is the crate that this program is built with; disagreeing with it cannot be repaired.
			fmt.Fprintln(os.Stderr, "supervise: malformed command:", err)
			return
		}
		commands <- c
	}
}
