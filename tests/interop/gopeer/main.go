// A process of etcd's own Go client and recipes, one step per line of standard input:
//
//	STEP NAME ARGUMENT...
//
// Each step is answered with a line when it has ended: "ok", and what it found, or else what went wrong.
// The steps stand in the other files of this folder, by subject.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
)

const (
	dialTime = 10 * time.Second
	ttl      = 30 // of the session, in seconds
)

// A step takes the words after its name and returns what is to be told.
type step func(words []string) (string, error)

// A peer is what the steps share. Whatever is held is held once.
type peer struct {
	client  *clientv3.Client
	session *concurrency.Session
}

func main() {
	client, err := clientv3.New(
		clientv3.Config{Endpoints: os.Args[1:2], DialTimeout: dialTime})
	must(err)
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	must(err)
	shared := &peer{client, session}
	steps := map[string]step{}
	for _, some := range []map[string]step{
		lockSteps(shared), barrierSteps(shared), queueSteps(shared), stmSteps(shared),
		namingSteps(shared),
	} {
		for name, one := range some {
			steps[name] = one
		}
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		one, known := steps[words[0]]
		if !known {
			must(fmt.Errorf("no step %q", words[0]))
		}
		found, err := one(words[1:])
		if err != nil {
			fmt.Println(err)
		} else {
			fmt.Println(strings.TrimRight("ok "+found, " "))
		}
	}
	session.Close()
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
