package pods

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/process"
)

// retryAfter is the pause before a call that the API server did not answer is made again.
const retryAfter = 300 * time.Millisecond

// Host is what all pods share.
type Host struct {
	Client kubernetes.Interface
	Table  *Table
	// Node is the name of the node.
	Node string
	// Root is the folder for the pods' directories and logs.
	Root string
	// API is the API server as a local process reaches it.
	API *url.URL
}

// worker runs one pod, from when it is seen until its deletion is confirmed. All of its fields belong to its goroutine,
// except the channels.
//
// Each round looks at the whole pod and does what is due: it starts, restarts, kills, reports. Nothing depends on
// having seen a particular event, so nothing is lost when the API server is away for a while.
type worker struct {
	*Host
	log *slog.Logger

	// updates holds the newest version of the pod that the worker has not looked at.
	updates chan *v1.Pod
	// vanished is closed when the pod was removed without our confirmation (a forced deletion).
	vanished chan struct{}
	// wake says that a container has ended.
	wake chan struct{}

	pod        *v1.Pod
	dir        string
	containers []*container
	started    metav1.Time
	// killAt is when a deleted pod's processes are killed; zero until they were asked to end.
	killAt    time.Time
	published *v1.PodStatus
}

func newWorker(host *Host, pod *v1.Pod) *worker {
	w := &worker{
		Host:     host,
		log:      slog.With("pod", keyOf(pod).String()),
		updates:  make(chan *v1.Pod, 1),
		vanished: make(chan struct{}),
		wake:     make(chan struct{}, 1),
		pod:      pod,
		dir:      filepath.Join(host.Root, "pods", string(pod.UID)),
		started:  metav1.Now(),
	}
	for _, c := range pod.Spec.InitContainers {
		w.containers = append(w.containers, newContainer(c, pod.Spec.RestartPolicy, true))
	}
	for _, c := range pod.Spec.Containers {
		w.containers = append(w.containers, newContainer(c, pod.Spec.RestartPolicy, false))
	}
	return w
}

// update hands the worker a newer version of its pod. It has one caller, the informer.
func (w *worker) update(pod *v1.Pod) {
	select {
	case <-w.updates:
	default:
	}
	w.updates <- pod
}

func (w *worker) run(ctx context.Context) {
	defer w.cleanUp()
	w.Table.add(w.pod)
	for {
		next, gone := w.round(ctx, time.Now())
		if gone {
			return
		}
		select {
		case pod := <-w.updates:
			w.pod = pod
		case <-w.wake:
		case <-alarm(next):
		case <-w.vanished:
			return
		case <-ctx.Done():
			return
		}
	}
}

// alarm fires at the given time; it never does for the zero time.
func alarm(at time.Time) <-chan time.Time {
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

// round does what is due. It returns when to look again at the latest, and whether the pod's life has ended.
func (w *worker) round(ctx context.Context, now time.Time) (next time.Time, gone bool) {
	for _, c := range w.containers {
		if c.running() && !c.current.Running() {
			c.exited(now)
		}
	}
	deleting := w.pod.DeletionTimestamp != nil
	if deleting {
		next = w.terminate(now)
	} else {
		next = w.startDue(now)
	}
	if err := w.publish(ctx, now); err != nil {
		w.log.Warn("status not reported yet", "error", err)
		return now.Add(retryAfter), apierrors.IsNotFound(err)
	}
	if !deleting || w.anyRunning() {
		return next, false
	}
	if err := w.confirmDeletion(ctx); err != nil {
		w.log.Warn("deletion not confirmed yet", "error", err)
		return now.Add(retryAfter), false
	}
	return time.Time{}, true
}

// startDue starts every container whose turn it is, and returns when the next one is due.
func (w *worker) startDue(now time.Time) (next time.Time) {
	for _, c := range w.containers {
		if !c.init && !w.initialized() {
			break
		}
		if c.wantsStart() {
			if now.Before(c.notBefore) {
				next = earliest(next, c.notBefore)
			} else if w.start(c, now); !c.running() {
				next = earliest(next, c.notBefore)
			}
		}
		// Init containers run one after the other; a sidecar only has to have started.
		if c.init && !c.succeeded() && !(c.sidecar() && c.attempts > 0) {
			break
		}
	}
	if w.mainFinished() {
		for _, c := range w.containers {
			if c.sidecar() && c.running() {
				c.current.Terminate()
			}
		}
	}
	return next
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func (w *worker) start(c *container, now time.Time) {
	spec, err := w.prepare(c)
	if err != nil {
		c.failed("CreateContainerConfigError", err, now)
		return
	}
	run, err := process.Start(spec)
	if err != nil {
		w.log.Info("container does not start", "container", c.spec.Name, "error", err)
		c.failed("CreateContainerError", err, now)
		return
	}
	c.started(run)
	w.Table.started(w.pod, c.spec.Name, run)
	go func() {
		<-run.Done()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}()
}

func (w *worker) prepare(c *container) (process.Spec, error) {
	logs := filepath.Join(w.Root, "logs", string(w.pod.UID), c.spec.Name)
	for _, dir := range []string{w.dir, logs} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return process.Spec{}, err
		}
	}
	env, err := environment(w.pod, &c.spec, w.dir, w.API)
	if err != nil {
		return process.Spec{}, err
	}
	dir := w.dir
	if c.spec.WorkingDir != "" {
		dir = c.spec.WorkingDir
	}
	return process.Spec{
		ID:        fmt.Sprintf("%s-%s-%d", w.pod.UID, c.spec.Name, c.attempts),
		Argv:      argv(&c.spec, env),
		Env:       env.list(),
		Dir:       dir,
		Log:       filepath.Join(logs, fmt.Sprintf("%d.log", c.attempts)),
		Stdin:     c.spec.Stdin,
		StdinOnce: c.spec.StdinOnce,
		TTY:       c.spec.TTY,
	}, nil
}

// terminate asks the pod's processes to end and kills them when the grace period, which may still be shortened by a
// second deletion, is over.
func (w *worker) terminate(now time.Time) (next time.Time) {
	grace := int64(v1.DefaultTerminationGracePeriodSeconds)
	if w.pod.DeletionGracePeriodSeconds != nil {
		grace = *w.pod.DeletionGracePeriodSeconds
	}
	deadline := now.Add(time.Duration(grace) * time.Second)
	first := w.killAt.IsZero()
	if first || deadline.Before(w.killAt) {
		w.killAt = deadline
	}
	for _, c := range w.containers {
		switch {
		case !c.running():
		case !now.Before(w.killAt):
			c.current.Kill()
		case first:
			c.current.Terminate()
		}
	}
	if !now.Before(w.killAt) {
		return time.Time{}
	}
	return w.killAt
}

func (w *worker) confirmDeletion(ctx context.Context) error {
	now := int64(0)
	err := w.Client.CoreV1().Pods(w.pod.Namespace).Delete(ctx, w.pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now,
		Preconditions:      &metav1.Preconditions{UID: &w.pod.UID},
	})
	// A conflict says that the name already belongs to another pod.
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (w *worker) cleanUp() {
	for _, c := range w.containers {
		if c.running() {
			c.current.Kill()
			<-c.current.Done()
		}
	}
	w.Table.remove(w.pod)
	for _, dir := range []string{w.dir, filepath.Join(w.Root, "logs", string(w.pod.UID))} {
		if err := os.RemoveAll(dir); err != nil {
			w.log.Warn("folder not removed", "error", err)
		}
	}
}

func (w *worker) anyRunning() bool {
	for _, c := range w.containers {
		if c.running() {
			return true
		}
	}
	return false
}

// initialized tells whether the main containers may start.
func (w *worker) initialized() bool {
	for _, c := range w.containers {
		if c.init && !c.succeeded() && !(c.sidecar() && c.attempts > 0) {
			return false
		}
	}
	return true
}

func (w *worker) mainFinished() bool {
	for _, c := range w.containers {
		if !c.init && !c.finished() {
			return false
		}
	}
	return true
}
