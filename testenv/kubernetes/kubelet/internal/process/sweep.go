package process

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// marker is the environment variable that tells which container a process belongs to. Children inherit it, so it also
// finds those that left the process group, which only a cgroup could otherwise do.
const marker = "UNDERPASS_TESTENV_CONTAINER"

// maxSweeps bounds the passes over the process table: each finds what the last one's victims had forked meanwhile.
const maxSweeps = 50

// sweep kills every process of a container, including what was executed in it.
func sweep(container string) {
	entry := []byte(marker + "=" + container)
	for range maxSweeps {
		if kill(entry) == 0 {
			return
		}
	}
}

func kill(entry []byte) (killed int) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		// A zombie's environment is empty, and that of another user's process cannot be read.
		environment, err := os.ReadFile("/proc/" + name.Name() + "/environ")
		if err == nil && has(environment, entry) && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

func has(environment, entry []byte) bool {
	for variable := range bytes.SplitSeq(environment, []byte{0}) {
		if bytes.Equal(variable, entry) {
			return true
		}
	}
	return false
}
