package main

import (
	"strconv"

	recipe "go.etcd.io/etcd/contrib/recipes"
)

// barrierSteps are those of gates and rounds:
//
//	close NAME | open NAME | wait NAME     recipes.Barrier
//	enter NAME COUNT | leave               recipes.DoubleBarrier
func barrierSteps(shared *peer) map[string]step {
	var inside *recipe.DoubleBarrier
	return map[string]step{
		"close": func(words []string) (string, error) {
			return "", recipe.NewBarrier(shared.client, words[0]).Hold()
		},
		"open": func(words []string) (string, error) {
			return "", recipe.NewBarrier(shared.client, words[0]).Release()
		},
		"wait": func(words []string) (string, error) {
			return "", recipe.NewBarrier(shared.client, words[0]).Wait()
		},
		"enter": func(words []string) (string, error) {
			count, err := strconv.Atoi(words[1])
			must(err)
			inside = recipe.NewDoubleBarrier(shared.session, words[0], count)
			return "", inside.Enter()
		},
		"leave": func([]string) (string, error) { return "", inside.Leave() },
	}
}
