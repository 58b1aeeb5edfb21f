package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"time"

	"github.com/rancher/remotedialer"
)

// forward leads everybody who connects to users to the target, through the first agent.
func forward(tunnel *remotedialer.Server, users, target string) error {
	listener, err := net.Listen("tcp", users)
	if err != nil {
		return err
	}
	dialer := tunnel.Dialer(name(0))
	for {
		user, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer user.Close()
			there, err := dialer(context.Background(), "tcp", target)
			if err != nil {
				log.Printf("no connection for a user: %v", err)
				return
			}
			defer there.Close()
			// remotedialer knows no half-close: the first end is that of both directions.
			ended := make(chan struct{}, 2)
			go func() { io.Copy(there, user); ended <- struct{}{} }()
			go func() { io.Copy(user, there); ended <- struct{}{} }()
			<-ended
		}()
	}
}

// answer tells the harness what it asks, a line of JSON for a line.
func answer(tunnel *remotedialer.Server, target string, questions io.Reader, answers io.Writer) {
	out := json.NewEncoder(answers)
	lines := bufio.NewScanner(questions)
	for lines.Scan() {
		var count int
		switch line := lines.Text(); {
		case line == "sessions":
			out.Encode(map[string]int{"sessions": len(tunnel.ListClients())})
		case scan(line, &count):
			out.Encode(map[string][]float64{"opened_us": open(tunnel, target, count)})
		default:
			log.Printf("unknown question %q", line)
		}
	}
}

func scan(line string, count *int) bool {
	n, err := fmt.Sscanf(line, "open %d", count)
	return n == 1 && err == nil
}

// open says how many microseconds it took to open a connection through a random agent and to hear an
// echo on it, for each of count.
func open(tunnel *remotedialer.Server, target string, count int) []float64 {
	agents := tunnel.ListClients()
	times := make([]float64, 0, count)
	for range count {
		agent := agents[rand.IntN(len(agents))]
		begun := time.Now()
		if err := echo(tunnel, agent, target); err != nil {
			log.Printf("no echo by way of %s: %v", agent, err)
			continue
		}
		times = append(times, float64(time.Since(begun).Nanoseconds())/1e3)
	}
	return times
}

func echo(tunnel *remotedialer.Server, agent, target string) error {
	conn, err := tunnel.Dialer(agent)(context.Background(), "tcp", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The target's order to echo, of nine bytes, and one to be echoed.
	if _, err := conn.Write([]byte{'E', 0, 0, 0, 0, 0, 0, 0, 0, 'k'}); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}
