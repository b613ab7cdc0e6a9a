package main

import (
	"context"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	recipe "go.etcd.io/etcd/contrib/recipes"
)

// lockSteps are those of what one process holds at a time:
//
//	lock NAME | unlock                             concurrency.Mutex; lock tells its key
//	campaign NAME VALUE | proclaim VALUE | resign  concurrency.Election; campaign tells its key
//	observe NAME | seen                            Election.Observe; seen tells key and value of the next leader
//	read NAME | write NAME | release               recipes.RWMutex
func lockSteps(shared *peer) map[string]step {
	ctx := context.Background()
	var mutex *concurrency.Mutex
	var election *concurrency.Election
	var leaders <-chan clientv3.GetResponse
	var rw *recipe.RWMutex
	return map[string]step{
		"lock": func(words []string) (string, error) {
			mutex = concurrency.NewMutex(shared.session, words[0])
			err := mutex.Lock(ctx)
			return mutex.Key(), err
		},
		"unlock": func([]string) (string, error) { return "", mutex.Unlock(ctx) },
		"campaign": func(words []string) (string, error) {
			election = concurrency.NewElection(shared.session, words[0])
			err := election.Campaign(ctx, words[1])
			return election.Key(), err
		},
		"proclaim": func(words []string) (string, error) {
			return "", election.Proclaim(ctx, words[0])
		},
		"resign": func([]string) (string, error) { return "", election.Resign(ctx) },
		"observe": func(words []string) (string, error) {
			leaders = concurrency.NewElection(shared.session, words[0]).Observe(ctx)
			return "", nil
		},
		"seen": func([]string) (string, error) {
			leader := (<-leaders).Kvs[0]
			return string(leader.Key) + " " + string(leader.Value), nil
		},
		"read": func(words []string) (string, error) {
			rw = recipe.NewRWMutex(shared.session, words[0])
			return "", rw.RLock()
		},
		"write": func(words []string) (string, error) {
			rw = recipe.NewRWMutex(shared.session, words[0])
			return "", rw.Lock()
		},
		"release": func([]string) (string, error) { return "", rw.Unlock() },
	}
}
