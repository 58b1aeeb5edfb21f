package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// command is one line of standard input; exactly one field is set.
type command struct {
	Start *start `json:"start,omitempty"`
	Stop  *stop  `json:"stop,omitempty"`
}

type start struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
	// Log receives standard output and standard error; it is appended to, so that a restart keeps what came before.
	Log string `json:"log"`
	// GraceMS is how long the process gets between SIGTERM and SIGKILL when everything ends; with 0 it is killed at once.
	GraceMS int64 `json:"grace_ms"`
	// HasChildren marks the process whose descendants may outlive it. If it dies, we end them; if we die, it gets
	// SIGTERM instead of SIGKILL, so that it can.
	HasChildren bool `json:"has_children"`
}

type stop struct {
	Name    string `json:"name"`
	GraceMS int64  `json:"grace_ms"`
}

// report is one line of standard output.
type report struct {
	Name  string `json:"name"`
	Event string `json:"event"`
	PID   int    `json:"pid,omitempty"`
	// Detail is the error of "failed", or how the process ended for "exited".
	Detail string `json:"detail,omitempty"`
}

type process struct {
	start
	pid    int
	killAt time.Time
}

// table is the running processes in the order of their start. It belongs to the main goroutine.
type table struct {
	running []*process
	out     *json.Encoder
}

func newTable(out *json.Encoder) *table {
	return &table{out: out}
}

func (t *table) handle(c command) {
	switch {
	case c.Start != nil:
		t.launch(*c.Start)
	case c.Stop != nil:
		for _, p := range t.running {
			if p.Name == c.Stop.Name {
				p.end(c.Stop.GraceMS)
			}
		}
	}
}

func (t *table) launch(s start) {
	pid, err := spawn(s)
	if err != nil {
		t.report(report{Name: s.Name, Event: "failed", Detail: err.Error()})
		return
	}
	t.running = append(t.running, &process{start: s, pid: pid})
	t.report(report{Name: s.Name, Event: "started", PID: pid})
}

func spawn(s start) (int, error) {
	if len(s.Argv) == 0 {
		return 0, fmt.Errorf("empty command line")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	death := syscall.SIGKILL
	if s.HasChildren {
		death = syscall.SIGTERM
	}
	return syscall.ForkExec(s.Argv[0], s.Argv, &syscall.ProcAttr{
		Dir:   s.Dir,
		Env:   s.Env,
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death},
	})
}

// end asks the process group to end and notes when to insist.
func (p *process) end(graceMS int64) {
	if graceMS <= 0 {
		p.kill()
		return
	}
	p.killAt = time.Now().Add(time.Duration(graceMS) * time.Millisecond)
	// The group can only be missing if the process is already dead; then reaping reports it.
	_ = syscall.Kill(-p.pid, syscall.SIGTERM)
}

func (p *process) kill() {
	p.killAt = time.Time{}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
}

// reap collects every ended child and reports those that were started by name.
func (t *table) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		t.forget(pid, status)
	}
	if !t.hasParent() {
		t.killOrphans()
	}
}

func (t *table) forget(pid int, status syscall.WaitStatus) {
	for i, p := range t.running {
		if p.pid == pid {
			// What the process left in its group ends with it.
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			t.running = append(t.running[:i], t.running[i+1:]...)
			t.report(report{Name: p.Name, Event: "exited", PID: pid, Detail: describe(status)})
			return
		}
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// hasParent tells whether a process runs to which orphans still belong.
func (t *table) hasParent() bool {
	for _, p := range t.running {
		if p.HasChildren {
			return true
		}
	}
	return false
}

// killOrphans ends the children that we did not start but inherited.
func (t *table) killOrphans() {
	started := make(map[int]bool, len(t.running))
	for _, p := range t.running {
		started[p.pid] = true
	}
	for _, pid := range childrenOf(os.Getpid()) {
		if !started[pid] {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// childrenOf reads the process table; it misses only processes that appear meanwhile, and those are found when their
// parent is reaped.
func childrenOf(parent int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var children []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err == nil && parentIn(string(stat)) == parent {
			children = append(children, pid)
		}
	}
	return children
}

// parentIn finds the parent's id in a line of /proc/<pid>/stat. The second field, the command's name in parentheses,
// may itself hold spaces and parentheses, so the fields are counted from the last one.
func parentIn(stat string) int {
	_, rest, _ := cutLast(stat, ")")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return -1
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return -1
	}
	return parent
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// timer fires when the next process is due for SIGKILL; it is nil, and never fires, if none is.
func (t *table) timer() <-chan time.Time {
	var next time.Time
	for _, p := range t.running {
		if !p.killAt.IsZero() && (next.IsZero() || p.killAt.Before(next)) {
			next = p.killAt
		}
	}
	if next.IsZero() {
		return nil
	}
	return time.After(time.Until(next))
}

func (t *table) killOverdue() {
	now := time.Now()
	for _, p := range t.running {
		if !p.killAt.IsZero() && !now.Before(p.killAt) {
			p.kill()
		}
	}
}

// endAll ends the processes, the last started first, and returns when no child is left.
func (t *table) endAll(children <-chan os.Signal) {
	for len(t.running) > 0 {
		p := t.running[len(t.running)-1]
		p.end(p.GraceMS)
		for t.has(p.pid) {
			select {
			case <-children:
				t.reap()
			case <-t.timer():
				t.killOverdue()
			}
		}
	}
	for t.killOrphans(); len(childrenOf(os.Getpid())) > 0; {
		<-children
		t.reap()
	}
}

func (t *table) has(pid int) bool {
	for _, p := range t.running {
		if p.pid == pid {
			return true
		}
	}
	return false
}

// report tells the parent; if it is gone there is nobody to tell, and standard input says so as well.
func (t *table) report(r report) {
	_ = t.out.Encode(r)
}
