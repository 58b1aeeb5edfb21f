package pods

import (
	"context"
	"encoding/json"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// publish reports the pod's status if it has changed.
func (w *worker) publish(ctx context.Context, now time.Time) error {
	status := w.status(now)
	if w.published != nil && equality.Semantic.DeepEqual(*w.published, status) {
		return nil
	}
	// The uid makes the patch fail if the name belongs to another pod meanwhile.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": w.pod.UID},
		"status":   status,
	})
	if err != nil {
		return err
	}
	pods := w.Client.CoreV1().Pods(w.pod.Namespace)
	if _, err := pods.Patch(ctx, w.pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return err
	}
	w.published = &status
	return nil
}

func (w *worker) status(now time.Time) v1.PodStatus {
	s := v1.PodStatus{
		Phase:     w.phase(),
		HostIP:    address,
		HostIPs:   []v1.HostIP{{IP: address}},
		PodIP:     address,
		PodIPs:    []v1.PodIP{{IP: address}},
		StartTime: &w.started,
		QOSClass:  w.pod.Status.QOSClass,
	}
	ready := true
	for _, c := range w.containers {
		status := c.status()
		if c.init {
			s.InitContainerStatuses = append(s.InitContainerStatuses, status)
		} else {
			s.ContainerStatuses = append(s.ContainerStatuses, status)
			ready = ready && status.Ready
		}
	}
	s.Conditions = w.conditions(now, ready && w.pod.DeletionTimestamp == nil)
	return s
}

func (w *worker) phase() v1.PodPhase {
	started, ended, failed := false, true, false
	for _, c := range w.containers {
		over := c.finished() || (w.pod.DeletionTimestamp != nil && c.ended != nil)
		if c.init {
			if c.finished() && !c.succeeded() && !c.sidecar() {
				return v1.PodFailed
			}
			continue
		}
		started = started || c.attempts > 0
		ended = ended && over
		failed = failed || (over && c.ended.ExitCode != 0)
	}
	switch {
	case !started:
		return v1.PodPending
	case ended && failed:
		return v1.PodFailed
	case ended:
		return v1.PodSucceeded
	}
	return v1.PodRunning
}

// conditions are ours, each with the time of its last change, after those that others set.
func (w *worker) conditions(now time.Time, ready bool) []v1.PodCondition {
	before := w.pod.Status.Conditions
	if w.published != nil {
		before = w.published.Conditions
	}
	ours := []v1.PodCondition{
		condition(v1.PodReadyToStartContainers, true),
		condition(v1.PodInitialized, w.initialized()),
		condition(v1.PodReady, ready),
		condition(v1.ContainersReady, ready),
	}
	names := map[v1.PodConditionType]bool{}
	for i := range ours {
		names[ours[i].Type] = true
		ours[i].LastTransitionTime = metav1.NewTime(now)
		for _, old := range before {
			if old.Type == ours[i].Type && old.Status == ours[i].Status {
				ours[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	var all []v1.PodCondition
	for _, theirs := range w.pod.Status.Conditions {
		if !names[theirs.Type] {
			all = append(all, theirs)
		}
	}
	return append(all, ours...)
}

func condition(name v1.PodConditionType, holds bool) v1.PodCondition {
	c := v1.PodCondition{Type: name, Status: v1.ConditionFalse}
	if holds {
		c.Status = v1.ConditionTrue
	} else if name == v1.PodReady || name == v1.ContainersReady {
		c.Reason = "ContainersNotReady"
	}
	return c
}
