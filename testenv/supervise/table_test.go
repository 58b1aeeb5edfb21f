package main

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestParentIsCountedFromTheNamesEnd(t *testing.T) {
	for _, c := range []struct {
		stat string
		want int
	}{
		{"7 (sh) S 42 7 7 0", 42},
		{"7 (a) b) (c) R 42 7", 42},
		{"7 () S 1 7", 1},
		{"7 (sh) S", -1},
		{"", -1},
	} {
		if got := parentIn(c.stat); got != c.want {
			t.Errorf("parentIn(%q) = %d, want %d", c.stat, got, c.want)
		}
	}
}

func TestChildrenAreFound(t *testing.T) {
	child := exec.Command("sleep", "100")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		child.Process.Kill()
		child.Wait()
	}()
	if children := childrenOf(os.Getpid()); !slices.Contains(children, child.Process.Pid) {
		t.Errorf("%d is not among %v", child.Process.Pid, children)
	}
}
