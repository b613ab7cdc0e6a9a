// One contender for a read-write lock, by the RWMutex of etcd's own recipes.
//
//	gorwmutex HOST:PORT NAME
//
// Reads commands, a line each: "read" or "write" waits for the lock and prints "held"; "release" gives it back and
// prints "released".
package main

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	recipe "go.etcd.io/etcd/contrib/recipes"
)

const (
	dialTime = 10 * time.Second
	ttl      = 30 // of the session, in seconds
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	config := clientv3.Config{Endpoints: os.Args[1:2], DialTimeout: dialTime}
	client, err := clientv3.New(config)
	must(err)
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	must(err)
	mutex := recipe.NewRWMutex(session, os.Args[2])
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		switch commands.Text() {
		case "read":
			must(mutex.RLock())
			fmt.Println("held")
		case "write":
			must(mutex.Lock())
			fmt.Println("held")
		case "release":
			must(mutex.Unlock())
			fmt.Println("released")
		}
	}
	must(session.Close())
}
