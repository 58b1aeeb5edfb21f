// Command kubelet stands in for a node's kubelet where there is neither root nor a container runtime: pods run as
// ordinary local processes. What it serves to kube-apiserver, it serves with Kubernetes's own libraries.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/node"
	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/pods"
	"github.com/underpass-dev/underpass/testenv/kubernetes/kubelet/internal/serve"
)

// websockets is the feature by which a node tells kube-apiserver to pass WebSocket connections on rather than
// translate them to SPDY itself. Real 1.36 nodes declare it.
const websockets = "ExtendWebSocketsToKubelet"

type flags struct {
	kubeconfig, node, root, version string
	cert, key, clientCA, clientName string
	websockets                      bool
}

func main() {
	var f flags
	flag.StringVar(&f.kubeconfig, "kubeconfig", "", "how to reach the API server")
	flag.StringVar(&f.node, "node", "node", "name of the node")
	flag.StringVar(&f.root, "root", "", "folder for pods and their logs")
	flag.StringVar(&f.version, "kubelet-version", "v0.0.0", "version that the node reports")
	flag.StringVar(&f.cert, "tls-cert-file", "", "certificate to serve with")
	flag.StringVar(&f.key, "tls-private-key-file", "", "its key")
	flag.StringVar(&f.clientCA, "client-ca-file", "", "authority of the API server's client certificate")
	flag.StringVar(&f.clientName, "client-name", "", "common name of the API server's client certificate")
	flag.BoolVar(&f.websockets, "websockets", true, "declare that this node takes WebSocket connections")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, f); err != nil {
		slog.Error("kubelet stand-in ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags) error {
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return err
	}
	api, err := url.Parse(config.Host)
	if err != nil {
		return err
	}
	client, err := newClient(config)
	if err != nil {
		return err
	}
	table := pods.NewTable()
	options, err := servingOptions(f, table)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	slog.Info("serving", "port", port)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if err := serve.Run(ctx, listener, options); err != nil {
			cancel(fmt.Errorf("serve: %w", err))
		}
	}()
	n := &node.Node{Name: f.node, Port: int32(port), Version: f.version, Client: client}
	if f.websockets {
		n.Features = []string{websockets}
	}
	go n.Run(ctx)

	host := &pods.Host{Client: client, Table: table, Node: f.node, Root: f.root, API: api}
	if err := pods.NewController(host).Run(ctx); err != nil {
		return err
	}
	// Workers kill what they run when the context ends; this is for what started meanwhile.
	table.KillAll()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func newClient(config *rest.Config) (kubernetes.Interface, error) {
	// The default of 5 requests a second would be what tests wait for.
	config.QPS, config.Burst = 200, 400
	config.UserAgent = "underpass-testenv-kubelet"
	return kubernetes.NewForConfig(config)
}

func servingOptions(f flags, table *pods.Table) (serve.Options, error) {
	certificate, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return serve.Options{}, err
	}
	ca, err := os.ReadFile(f.clientCA)
	if err != nil {
		return serve.Options{}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return serve.Options{}, fmt.Errorf("%s holds no certificate", f.clientCA)
	}
	return serve.Options{Certificate: certificate, ClientCA: pool, ClientName: f.clientName, Table: table}, nil
}
