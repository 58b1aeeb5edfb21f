package pods

import (
	"fmt"
	"net/url"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// address is the address of every pod and of the node: all of them are processes of this machine.
const address = "127.0.0.1"

// environment returns a container's variables: those that an image would bring, those that Kubernetes sets, those of
// the spec, each replacing an earlier one of the same name.
func environment(pod *v1.Pod, c *v1.Container, dir string, api *url.URL) (*variables, error) {
	env := &variables{values: map[string]string{}}
	env.set("PATH", os.Getenv("PATH"))
	env.set("HOME", dir)
	env.set("TMPDIR", dir)
	env.set("HOSTNAME", pod.Name)
	// The address at which a local process reaches the API server, not the virtual one of Service "kubernetes".
	env.set("KUBERNETES_SERVICE_HOST", api.Hostname())
	env.set("KUBERNETES_SERVICE_PORT", api.Port())
	if len(c.EnvFrom) > 0 {
		return nil, fmt.Errorf("envFrom is not supported by this node")
	}
	for _, v := range c.Env {
		value := expansion.Expand(v.Value, expansion.MappingFuncFor(env.values))
		if v.ValueFrom != nil {
			var err error
			if value, err = field(pod, v.ValueFrom); err != nil {
				return nil, fmt.Errorf("env %s: %w", v.Name, err)
			}
		}
		env.set(v.Name, value)
	}
	return env, nil
}

// argv is the command line with references to variables replaced.
func argv(c *v1.Container, env *variables) []string {
	var words []string
	for _, word := range append(append([]string{}, c.Command...), c.Args...) {
		words = append(words, expansion.Expand(word, expansion.MappingFuncFor(env.values)))
	}
	return words
}

func field(pod *v1.Pod, from *v1.EnvVarSource) (string, error) {
	if from.FieldRef == nil {
		return "", fmt.Errorf("this node supports valueFrom only with fieldRef")
	}
	switch from.FieldRef.FieldPath {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs":
		return address, nil
	}
	return "", fmt.Errorf("this node does not support fieldRef %q", from.FieldRef.FieldPath)
}

// variables keeps the order in which names were first set, so that processes get a stable environment.
type variables struct {
	order  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	if _, known := v.values[name]; !known {
		v.order = append(v.order, name)
	}
	v.values[name] = value
}

func (v *variables) list() []string {
	list := make([]string, 0, len(v.order))
	for _, name := range v.order {
		list = append(list, name+"="+v.values[name])
	}
	return list
}
