// Command remotedialer carries TCP connections over github.com/rancher/remotedialer, as the other
// peers do by themselves: a server whose users' connections lead to a target beside its agent.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rancher/remotedialer"
	"github.com/sirupsen/logrus"
)

const agentHeader = "X-Agent"

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: remotedialer server|agent [flags]")
	}
	// A line for each connection is not what is measured.
	logrus.SetLevel(logrus.WarnLevel)
	var err error
	switch command, arguments := os.Args[1], os.Args[2:]; command {
	case "server":
		err = serve(arguments)
	case "agent":
		err = dial(arguments)
	default:
		err = fmt.Errorf("unknown command %q: it is server or agent", command)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	agents := flags.String("agents", "", "`address` at which agents connect")
	users := flags.String("users", "", "`address` at which users connect")
	target := flags.String("target", "", "`address` that users are led to, beside the agent")
	certificate := flags.String("cert", "", "certificate `file`")
	key := flags.String("key", "", "key `file`")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	tunnel := remotedialer.New(func(r *http.Request) (string, bool, error) {
		name := r.Header.Get(agentHeader)
		return name, name != "", nil
	}, remotedialer.DefaultErrorWriter)
	failed := make(chan error, 2)
	go func() { failed <- forward(tunnel, *users, *target) }()
	go func() { failed <- http.ListenAndServeTLS(*agents, *certificate, *key, tunnel) }()
	go answer(tunnel, *target, os.Stdin, os.Stdout)
	return <-failed
}

func dial(arguments []string) error {
	flags := flag.NewFlagSet("agent", flag.ExitOnError)
	server := flags.String("server", "", "wss:// `URL` of the server")
	ca := flags.String("ca", "", "`file` with the server's CA")
	count := flags.Int("count", 1, "`number` of agents that this process is")
	first := flags.Int("first", 0, "`number` of the first one")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("no certificate in %s", *ca)
	}
	dialer := &websocket.Dialer{
		TLSClientConfig:  &tls.Config{RootCAs: roots},
		HandshakeTimeout: remotedialer.HandshakeTimeOut,
	}
	for i := range *count {
		go keep(*server, name(*first+i), dialer)
	}
	select {}
}

// keep dials again as soon as a connection is lost: what remotedialer's own ClientConnect adds is five
// seconds of sleep.
func keep(server, name string, dialer *websocket.Dialer) {
	headers := http.Header{agentHeader: {name}}
	anything := func(string, string) bool { return true }
	for {
		if err := remotedialer.ConnectToProxy(context.Background(), server, headers, anything, dialer, nil); err != nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func name(i int) string { return fmt.Sprintf("agent-%d", i) }
