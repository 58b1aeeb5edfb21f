// Package pods runs the pods of this node as local processes, and binds every unscheduled pod to it.
package pods

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Controller turns the API server's pods into workers.
type Controller struct {
	host *Host

	// The maps belong to the informer's goroutine.
	workers map[types.UID]*worker
	binding map[types.UID]bool

	ctx     context.Context
	running sync.WaitGroup
}

// NewController returns a controller that has not started.
func NewController(host *Host) *Controller {
	return &Controller{host: host, workers: map[types.UID]*worker{}, binding: map[types.UID]bool{}}
}

// Run watches pods until ctx ends, then kills what runs and returns.
func (c *Controller) Run(ctx context.Context) error {
	c.ctx = ctx
	factory := informers.NewSharedInformerFactory(c.host.Client, 0)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(pod any) { c.seen(pod.(*v1.Pod)) },
		UpdateFunc: func(_, pod any) { c.seen(pod.(*v1.Pod)) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				c.vanished(pod)
			}
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	c.running.Wait()
	return nil
}

func (c *Controller) seen(pod *v1.Pod) {
	switch {
	case pod.Spec.NodeName == "":
		c.bind(pod)
	case pod.Spec.NodeName == c.host.Node:
		c.assign(pod)
	}
}

// assign gives the pod to its worker.
func (c *Controller) assign(pod *v1.Pod) {
	if w := c.workers[pod.UID]; w != nil {
		w.update(pod)
		return
	}
	over := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
	if over && pod.DeletionTimestamp == nil {
		// It ended under a former life of this node; there is nothing to run and nothing to report.
		return
	}
	w := newWorker(c.host, pod)
	c.workers[pod.UID] = w
	c.running.Go(func() { w.run(c.ctx) })
}

func (c *Controller) vanished(pod *v1.Pod) {
	delete(c.binding, pod.UID)
	if w := c.workers[pod.UID]; w != nil {
		delete(c.workers, pod.UID)
		close(w.vanished)
	}
}

// bind is the whole scheduler: there is one node. Pods that ask for another scheduler, or to wait, are left alone.
func (c *Controller) bind(pod *v1.Pod) {
	if pod.DeletionTimestamp != nil || pod.Spec.SchedulerName != v1.DefaultSchedulerName ||
		len(pod.Spec.SchedulingGates) > 0 || c.binding[pod.UID] {
		return
	}
	c.binding[pod.UID] = true
	c.running.Go(func() {
		binding := &v1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     v1.ObjectReference{Kind: "Node", Name: c.host.Node},
		}
		for c.ctx.Err() == nil {
			err := c.host.Client.CoreV1().Pods(pod.Namespace).Bind(c.ctx, binding, metav1.CreateOptions{})
			// A conflict: it is bound already, or is another pod of that name.
			if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return
			}
			slog.Warn("pod not bound yet", "pod", keyOf(pod).String(), "error", err)
			select {
			case <-c.ctx.Done():
			case <-time.After(retryAfter):
			}
		}
	})
}
