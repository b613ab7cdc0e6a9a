package main

import (
	"strconv"
	"strings"

	recipe "go.etcd.io/etcd/contrib/recipes"
)

// queueSteps are those of queues:
//
//	put NAME ITEM... | take NAME COUNT                  recipes.Queue
//	put-urgent NAME PRIORITY ITEM... | take-urgent NAME COUNT   recipes.PriorityQueue
//
// Items are put and taken one after the other; whoever takes tells them, in the order in which they came.
func queueSteps(shared *peer) map[string]step {
	return map[string]step{
		"put": func(words []string) (string, error) {
			queue := recipe.NewQueue(shared.client, words[0])
			return "", each(words[1:], queue.Enqueue)
		},
		"take": func(words []string) (string, error) {
			return several(words[1], recipe.NewQueue(shared.client, words[0]).Dequeue)
		},
		"put-urgent": func(words []string) (string, error) {
			queue := recipe.NewPriorityQueue(shared.client, words[0])
			priority, err := strconv.ParseUint(words[1], 10, 16)
			must(err)
			return "", each(words[2:], func(item string) error {
				return queue.Enqueue(item, uint16(priority))
			})
		},
		"take-urgent": func(words []string) (string, error) {
			return several(words[1], recipe.NewPriorityQueue(shared.client, words[0]).Dequeue)
		},
	}
}

func each(items []string, put func(string) error) error {
	for _, item := range items {
		if err := put(item); err != nil {
			return err
		}
	}
	return nil
}

func several(count string, take func() (string, error)) (string, error) {
	number, err := strconv.Atoi(count)
	must(err)
	items := make([]string, number)
	for i := range items {
		if items[i], err = take(); err != nil {
			return "", err
		}
	}
	return strings.Join(items, " "), nil
}
