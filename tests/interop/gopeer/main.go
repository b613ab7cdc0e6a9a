// The barriers of etcd's own Go recipes, one step per line of standard input:
//
//	hold NAME | release NAME | wait NAME         recipes.Barrier
//	enter NAME COUNT | leave                     recipes.DoubleBarrier, one at a time
//
// Each step is answered with a line when it has ended: "ok", or what went wrong.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	recipe "go.etcd.io/etcd/contrib/recipes"
)

func main() {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Args[1]}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	session, err := concurrency.NewSession(client, concurrency.WithTTL(20))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var inside *recipe.DoubleBarrier
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "hold":
			err = recipe.NewBarrier(client, words[1]).Hold()
		case "release":
			err = recipe.NewBarrier(client, words[1]).Release()
		case "wait":
			err = recipe.NewBarrier(client, words[1]).Wait()
		case "enter":
			count, _ := strconv.Atoi(words[2])
			inside = recipe.NewDoubleBarrier(session, words[1], count)
			err = inside.Enter()
		case "leave":
			err = inside.Leave()
		}
		if err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
	session.Close()
}
