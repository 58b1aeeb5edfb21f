package pods

import (
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/process"
)

// Table tells which containers run, for those who serve them. Workers write to it, one each for its own pod.
type Table struct {
	mu   sync.Mutex
	pods map[types.NamespacedName]*entry
	byID map[string]*process.Container
}

type entry struct {
	uid types.UID
	// runs are the current and the previous run of each container; those of containers that never ran are missing.
	runs map[string]runs
	// known are the names of all containers.
	known map[string]bool
}

type runs struct {
	current, previous *process.Container
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{pods: map[types.NamespacedName]*entry{}, byID: map[string]*process.Container{}}
}

// add makes a pod known; a former pod of the same name is forgotten.
func (t *Table) add(pod *v1.Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &entry{uid: pod.UID, runs: map[string]runs{}, known: map[string]bool{}}
	for _, c := range allContainers(pod) {
		e.known[c.Name] = true
	}
	t.pods[keyOf(pod)] = e
}

// started records a new run of a container, which makes the last one the previous one.
func (t *Table) started(pod *v1.Pod, name string, c *process.Container) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[c.ID()] = c
	if e := t.pods[keyOf(pod)]; e != nil && e.uid == pod.UID {
		if old := e.runs[name].previous; old != nil {
			delete(t.byID, old.ID())
		}
		e.runs[name] = runs{current: c, previous: e.runs[name].current}
	}
}

// remove forgets a pod.
func (t *Table) remove(pod *v1.Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.pods[keyOf(pod)]
	if e == nil || e.uid != pod.UID {
		return
	}
	for _, r := range e.runs {
		for _, c := range []*process.Container{r.current, r.previous} {
			if c != nil {
				delete(t.byID, c.ID())
			}
		}
	}
	delete(t.pods, keyOf(pod))
}

// NotFound says that there is no such pod or container on this node.
type NotFound struct{ What string }

func (e *NotFound) Error() string { return e.What }

// NotReady says that the container exists and has no such run.
type NotReady struct{ Why string }

func (e *NotReady) Error() string { return e.Why }

// Pod returns the uid of a pod.
func (t *Table) Pod(pod types.NamespacedName) (types.UID, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.pods[pod]; e != nil {
		return e.uid, nil
	}
	return "", &NotFound{What: fmt.Sprintf("pod %q does not exist on this node", pod)}
}

// Run returns the current run of a container, or the one before it.
func (t *Table) Run(pod types.NamespacedName, container string, previous bool) (*process.Container, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.pods[pod]
	if e == nil {
		return nil, &NotFound{What: fmt.Sprintf("pod %q does not exist on this node", pod)}
	}
	if !e.known[container] {
		return nil, &NotFound{What: fmt.Sprintf("container %q not found in pod %q", container, pod.Name)}
	}
	r := e.runs[container]
	switch {
	case previous && r.previous == nil:
		return nil, &NotReady{Why: fmt.Sprintf("previous terminated container %q in pod %q not found", container, pod.Name)}
	case previous:
		return r.previous, nil
	case r.current == nil:
		return nil, &NotReady{Why: fmt.Sprintf("container %q in pod %q is waiting to start", container, pod.Name)}
	}
	return r.current, nil
}

// ByID returns the run with the given id.
func (t *Table) ByID(id string) (*process.Container, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.byID[id]; c != nil {
		return c, nil
	}
	return nil, &NotFound{What: fmt.Sprintf("container %q does not exist", id)}
}

// KillAll ends every container, for when the node itself ends.
func (t *Table) KillAll() {
	t.mu.Lock()
	running := make([]*process.Container, 0, len(t.byID))
	for _, c := range t.byID {
		running = append(running, c)
	}
	t.mu.Unlock()
	for _, c := range running {
		c.Kill()
	}
}

func keyOf(pod *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

func allContainers(pod *v1.Pod) []v1.Container {
	return append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
}
