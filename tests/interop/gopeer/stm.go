package main

import (
	"strconv"

	"go.etcd.io/etcd/clientv3/concurrency"
)

// stmSteps are those of software transactions, concurrency.NewSTM at its default level; absent keys count as 0:
//
//	add KEY COUNT             one more, so many times
//	move FROM TO COUNT        one from there to here, so many times
//	sum KEY...                tells the sum of the keys
func stmSteps(shared *peer) map[string]step {
	run := func(do func(concurrency.STM) error) error {
		_, err := concurrency.NewSTM(shared.client, do)
		return err
	}
	return map[string]step{
		"add": func(words []string) (string, error) {
			return "", repeat(words[1], func() error {
				return run(func(tx concurrency.STM) error {
					change(tx, words[0], 1)
					return nil
				})
			})
		},
		"move": func(words []string) (string, error) {
			return "", repeat(words[2], func() error {
				return run(func(tx concurrency.STM) error {
					change(tx, words[0], -1)
					change(tx, words[1], 1)
					return nil
				})
			})
		},
		"sum": func(words []string) (string, error) {
			sum := 0
			err := run(func(tx concurrency.STM) error {
				sum = 0
				for _, key := range words {
					sum += number(tx.Get(key))
				}
				return nil
			})
			return strconv.Itoa(sum), err
		},
	}
}

func change(tx concurrency.STM, key string, by int) {
	tx.Put(key, strconv.Itoa(number(tx.Get(key))+by))
}

func number(text string) int {
	if text == "" {
		return 0
	}
	found, err := strconv.Atoi(text)
	must(err)
	return found
}

func repeat(count string, do func() error) error {
	for i := number(count); i > 0; i-- {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}
