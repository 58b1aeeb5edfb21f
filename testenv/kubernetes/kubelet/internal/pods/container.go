package pods

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/process"
)

const (
	// firstBackoff and maxBackoff are shorter than a real kubelet's (10 s and 5 min), because tests wait for restarts.
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 20 * time.Second
)

// container is what a worker knows of one container of its pod. It belongs to the worker's goroutine.
type container struct {
	spec v1.Container
	init bool
	// policy is the pod's, or the container's own where that is set (sidecars).
	policy v1.RestartPolicy

	current  *process.Container
	attempts int
	// last is how the run before the current one ended; ended is how the current one did.
	last, ended *v1.ContainerStateTerminated
	// waiting says why the container does not run.
	waiting *v1.ContainerStateWaiting
	// notBefore delays the next start.
	notBefore time.Time
}

func newContainer(spec v1.Container, policy v1.RestartPolicy, init bool) *container {
	if spec.RestartPolicy != nil {
		policy = v1.RestartPolicy(*spec.RestartPolicy)
	} else if init && policy == v1.RestartPolicyAlways {
		policy = v1.RestartPolicyOnFailure
	}
	return &container{
		spec:    spec,
		init:    init,
		policy:  policy,
		waiting: &v1.ContainerStateWaiting{Reason: "PodInitializing"},
	}
}

func (c *container) sidecar() bool {
	return c.init && c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == v1.ContainerRestartPolicyAlways
}

func (c *container) running() bool { return c.current != nil && c.ended == nil }

// wantsStart tells whether the container is to be started, now or after its backoff.
func (c *container) wantsStart() bool {
	if c.running() {
		return false
	}
	if c.ended == nil {
		return true
	}
	switch c.policy {
	case v1.RestartPolicyAlways:
		return true
	case v1.RestartPolicyOnFailure:
		return c.ended.ExitCode != 0
	}
	return false
}

// finished tells whether the container has run and will not again.
func (c *container) finished() bool { return c.ended != nil && !c.wantsStart() }

func (c *container) succeeded() bool { return c.finished() && c.ended.ExitCode == 0 }

func (c *container) started(run *process.Container) {
	if c.ended != nil {
		c.last = c.ended
	}
	c.current, c.ended, c.waiting = run, nil, nil
	c.attempts++
}

// failed records that no process could be started at all.
func (c *container) failed(reason string, err error, now time.Time) {
	c.waiting = &v1.ContainerStateWaiting{Reason: reason, Message: err.Error()}
	c.notBefore = now.Add(maxBackoff / 10)
}

// exited records the end of the current run and when the next may start.
func (c *container) exited(now time.Time) {
	exit := c.current.Exit()
	reason := "Completed"
	if exit.Code != 0 {
		reason = "Error"
	}
	c.ended = &v1.ContainerStateTerminated{
		ExitCode:    int32(exit.Code),
		Signal:      int32(exit.Signal),
		Reason:      reason,
		StartedAt:   metav1.NewTime(c.current.Started),
		FinishedAt:  metav1.NewTime(exit.At),
		ContainerID: "process://" + c.current.ID(),
	}
	if c.wantsStart() {
		// The first restart is immediate, as it is with a real kubelet.
		backoff := time.Duration(0)
		if c.attempts > 1 {
			backoff = min(firstBackoff<<min(c.attempts-2, 10), maxBackoff)
			c.waiting = &v1.ContainerStateWaiting{
				Reason:  "CrashLoopBackOff",
				Message: fmt.Sprintf("back-off %s restarting container %s", backoff, c.spec.Name),
			}
		}
		c.notBefore = now.Add(backoff)
	}
}

func (c *container) status() v1.ContainerStatus {
	s := v1.ContainerStatus{
		Name:         c.spec.Name,
		Image:        c.spec.Image,
		ImageID:      "process://local",
		RestartCount: int32(max(c.attempts-1, 0)),
	}
	if c.last != nil {
		s.LastTerminationState.Terminated = c.last
	}
	started := c.running()
	s.Started = &started
	if c.current != nil {
		s.ContainerID = "process://" + c.current.ID()
	}
	switch {
	case c.running():
		s.Ready = true
		s.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(c.current.Started)}
	case c.waiting != nil:
		s.State.Waiting = c.waiting
		if c.ended != nil {
			s.LastTerminationState.Terminated = c.ended
		}
	default:
		s.State.Terminated = c.ended
		s.Ready = c.init && c.succeeded()
	}
	return s
}
