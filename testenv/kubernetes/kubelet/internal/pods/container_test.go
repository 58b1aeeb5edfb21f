package pods

import (
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/process"
)

// ended runs a command as the container's next run, to its end.
func ended(t *testing.T, c *container, script string, now time.Time) {
	t.Helper()
	run, err := process.Start(process.Spec{
		ID:   t.Name(),
		Argv: []string{"sh", "-c", script},
		Dir:  t.TempDir(),
		Log:  filepath.Join(t.TempDir(), "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.started(run)
	<-run.Done()
	c.exited(now)
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy v1.RestartPolicy
		script string
		again  bool
	}{
		{v1.RestartPolicyAlways, "exit 0", true},
		{v1.RestartPolicyAlways, "exit 1", true},
		{v1.RestartPolicyOnFailure, "exit 0", false},
		{v1.RestartPolicyOnFailure, "exit 1", true},
		{v1.RestartPolicyNever, "exit 1", false},
	} {
		container := newContainer(v1.Container{Name: "c"}, c.policy, false)
		if !container.wantsStart() {
			t.Errorf("%s: does not want its first start", c.policy)
		}
		ended(t, container, c.script, time.Now())
		if container.wantsStart() != c.again || container.finished() == c.again {
			t.Errorf("%s after %q: restart is %v", c.policy, c.script, container.wantsStart())
		}
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	c := newContainer(v1.Container{Name: "c"}, v1.RestartPolicyAlways, false)
	now := time.Now()
	var waits []time.Duration
	for range 9 {
		ended(t, c, "exit 1", now)
		waits = append(waits, c.notBefore.Sub(now))
	}
	want := []time.Duration{0, firstBackoff, 2 * firstBackoff, 4 * firstBackoff}
	if !slices.Equal(waits[:4], want) || waits[8] != maxBackoff {
		t.Errorf("waits %v, want %v first and %v last", waits, want, maxBackoff)
	}
	status := c.status()
	if status.RestartCount != 8 || status.State.Waiting == nil || status.LastTerminationState.Terminated.ExitCode != 1 {
		t.Errorf("status %+v", status)
	}
}

func TestAContainerThatCannotStartWaitsAndSaysWhy(t *testing.T) {
	c := newContainer(v1.Container{Name: "c"}, v1.RestartPolicyNever, false)
	now := time.Now()
	c.failed("CreateContainerError", errors.New("no such file"), now)
	if !c.wantsStart() || !c.notBefore.After(now) {
		t.Error("it is not tried again later")
	}
	if w := c.status().State.Waiting; w == nil || w.Message != "no such file" {
		t.Errorf("waiting %+v", w)
	}
}

func TestEnvironmentExpandsAndReplaces(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
	spec := &v1.Container{
		Command: []string{"run", "$(A)"},
		Args:    []string{"$$(A)", "$(MISSING)"},
		Env: []v1.EnvVar{
			{Name: "A", Value: "1"},
			{Name: "B", Value: "$(A)2"},
			{Name: "HOME", Value: "/elsewhere"},
			{Name: "NS", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}},
		},
	}
	env, err := environment(pod, spec, "/dir", &url.URL{Scheme: "https", Host: "127.0.0.1:6443"})
	if err != nil {
		t.Fatal(err)
	}
	list := env.list()
	for _, want := range []string{"A=1", "B=12", "HOME=/elsewhere", "NS=n", "HOSTNAME=p", "KUBERNETES_SERVICE_PORT=6443"} {
		if !slices.Contains(list, want) {
			t.Errorf("%q is not in %q", want, list)
		}
	}
	if slices.Contains(list, "HOME=/dir") {
		t.Errorf("HOME is there twice: %q", list)
	}
	if got, want := argv(spec, env), []string{"run", "1", "$(A)", "$(MISSING)"}; !slices.Equal(got, want) {
		t.Errorf("argv %q, want %q", got, want)
	}
}

func TestWhatTheEnvironmentCannotHoldIsAnError(t *testing.T) {
	spec := &v1.Container{Env: []v1.EnvVar{{Name: "S", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{}}}}}
	if _, err := environment(&v1.Pod{}, spec, "/dir", &url.URL{}); err == nil {
		t.Error("a secret became an empty variable")
	}
}
