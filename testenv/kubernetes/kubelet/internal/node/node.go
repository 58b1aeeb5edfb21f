// Package node keeps this node registered and ready.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// heartbeat is how often the lease is renewed; the controller-manager waits for 50 s before it taints a node.
	heartbeat = 10 * time.Second
	// leaseSeconds is the duration that the lease itself names.
	leaseSeconds = 40
	// retryAfter is the pause after a call that failed, short so that the node is ready soon after the API server is.
	retryAfter = 200 * time.Millisecond
)

// Node is the node that is registered.
type Node struct {
	Name string
	// Port is where the kubelet's API is served.
	Port int32
	// Version is the kubelet version to report.
	Version string
	// Features are the declared features, on which the API server decides how it talks to the node.
	Features []string
	Client   kubernetes.Interface

	// since is the last change of every condition: they never change.
	since metav1.Time
}

// Run registers the node and keeps its lease fresh until ctx ends.
func (n *Node) Run(ctx context.Context) {
	n.since = metav1.Now()
	registered := false
	for {
		pause := heartbeat
		err := n.beat(ctx, &registered)
		if err != nil {
			slog.Warn("node not up to date yet", "error", err)
			pause = retryAfter
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (n *Node) beat(ctx context.Context, registered *bool) error {
	// One slow call must not cost the lease.
	ctx, cancel := context.WithTimeout(ctx, heartbeat)
	defer cancel()
	if !*registered {
		if err := n.register(ctx); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		*registered = true
	}
	if err := n.renewLease(ctx); err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	if err := n.report(ctx); err != nil {
		// Whoever deleted the node gets it back, as with a real kubelet.
		*registered = !apierrors.IsNotFound(err)
		return fmt.Errorf("report status: %w", err)
	}
	return nil
}

func (n *Node) register(ctx context.Context) error {
	_, err := n.Client.CoreV1().Nodes().Create(ctx, &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.Name,
			Labels: map[string]string{
				v1.LabelHostname:   n.Name,
				v1.LabelOSStable:   runtime.GOOS,
				v1.LabelArchStable: runtime.GOARCH,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

func (n *Node) report(ctx context.Context) error {
	patch, err := json.Marshal(map[string]any{"status": n.status(metav1.Now())})
	if err != nil {
		return err
	}
	_, err = n.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func (n *Node) status(now metav1.Time) v1.NodeStatus {
	resources := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		v1.ResourceMemory:           resource.MustParse("8Gi"),
		v1.ResourceEphemeralStorage: resource.MustParse("64Gi"),
		v1.ResourcePods:             resource.MustParse("1000"),
	}
	status := v1.NodeStatus{
		Capacity:    resources,
		Allocatable: resources,
		Addresses: []v1.NodeAddress{
			{Type: v1.NodeInternalIP, Address: "127.0.0.1"},
			{Type: v1.NodeHostName, Address: n.Name},
		},
		DaemonEndpoints:  v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: n.Port}},
		DeclaredFeatures: n.Features,
		NodeInfo: v1.NodeSystemInfo{
			KubeletVersion:          n.Version,
			ContainerRuntimeVersion: "process://1",
			OperatingSystem:         runtime.GOOS,
			Architecture:            runtime.GOARCH,
			OSImage:                 "local processes",
		},
	}
	for _, c := range []struct {
		name   v1.NodeConditionType
		status v1.ConditionStatus
		reason string
	}{
		{v1.NodeReady, v1.ConditionTrue, "KubeletReady"},
		{v1.NodeMemoryPressure, v1.ConditionFalse, "KubeletHasSufficientMemory"},
		{v1.NodeDiskPressure, v1.ConditionFalse, "KubeletHasNoDiskPressure"},
		{v1.NodePIDPressure, v1.ConditionFalse, "KubeletHasSufficientPID"},
	} {
		status.Conditions = append(status.Conditions, v1.NodeCondition{
			Type: c.name, Status: c.status, Reason: c.reason, LastHeartbeatTime: now, LastTransitionTime: n.since,
		})
	}
	return status
}

func (n *Node) renewLease(ctx context.Context) error {
	leases := n.Client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	now, seconds := metav1.NowMicro(), int32(leaseSeconds)
	lease, err := leases.Get(ctx, n.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = leases.Create(ctx, &coordination.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name},
			Spec: coordination.LeaseSpec{
				HolderIdentity: &n.Name, LeaseDurationSeconds: &seconds, RenewTime: &now,
			},
		}, metav1.CreateOptions{})
	case err == nil:
		lease.Spec.RenewTime = &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	return err
}
