// A closed loop of concurrent callers with etcd's own Go client, measured.
//
//	goload HOST:PORT[,HOST:PORT...] OPERATION CALLERS TOTAL
//
// The client spreads its calls over all endpoints. All callers share one client, as in a program; those that lock or campaign have a session each.
// Prints one line of JSON: {"ops", "seconds", "p50_us"}.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	recipe "go.etcd.io/etcd/contrib/recipes"
)

const (
	key      = "/bench/00000001"
	dialTime = 10 * time.Second
	// The whole load must end within this time.
	limit = 5 * time.Minute
	// What the session of a caller that locks is kept alive for, in seconds.
	ttl = 60
)

var value = strings.Repeat("x", 64)

// call makes one call of one caller.
type call func(ctx context.Context) error

// prepare returns what the caller with this number does again and again.
type prepare func(ctx context.Context, client *clientv3.Client, caller int) (call, error)

func put(_ context.Context, client *clientv3.Client, _ int) (call, error) {
	return func(ctx context.Context) error {
		_, err := client.Put(ctx, key, value)
		return err
	}, nil
}

func get(_ context.Context, client *clientv3.Client, _ int) (call, error) {
	return func(ctx context.Context) error {
		_, err := client.Get(ctx, key)
		return err
	}, nil
}

func txn(_ context.Context, client *clientv3.Client, _ int) (call, error) {
	return func(ctx context.Context) error {
		_, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.Version(key), ">", -1)).
			Then(clientv3.OpPut(key, value), clientv3.OpGet(key)).
			Commit()
		return err
	}, nil
}

func grant(_ context.Context, client *clientv3.Client, _ int) (call, error) {
	return func(ctx context.Context) error {
		_, err := client.Grant(ctx, 600)
		return err
	}, nil
}

func lock(name func(caller int) string) prepare {
	return func(ctx context.Context, client *clientv3.Client, caller int) (call, error) {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl), concurrency.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		mutex := concurrency.NewMutex(session, name(caller))
		return func(ctx context.Context) error {
			if err := mutex.Lock(ctx); err != nil {
				return err
			}
			return mutex.Unlock(ctx)
		}, nil
	}
}

func campaign(ctx context.Context, client *clientv3.Client, caller int) (call, error) {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl), concurrency.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	election := concurrency.NewElection(session, "/bench/election")
	return func(ctx context.Context) error {
		if err := election.Campaign(ctx, strconv.Itoa(caller)); err != nil {
			return err
		}
		return election.Resign(ctx)
	}, nil
}

// queue puts an item and takes one.
func queue(_ context.Context, client *clientv3.Client, _ int) (call, error) {
	line := recipe.NewQueue(client, "/bench/queue")
	return func(context.Context) error {
		if err := line.Enqueue(value); err != nil {
			return err
		}
		_, err := line.Dequeue()
		return err
	}, nil
}

var operations = map[string]prepare{
	"put":      put,
	"get":      get,
	"txn":      txn,
	"grant":    grant,
	"lock-own": lock(func(caller int) string { return fmt.Sprintf("/bench/own/%d", caller) }),
	"lock-one": lock(func(int) string { return "/bench/one" }),
	"campaign": campaign,
	"queue":    queue,
}

func run(endpoints, operation string, callers, total int) error {
	begin, known := operations[operation]
	if !known {
		return fmt.Errorf("no operation is called %q", operation)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(endpoints, ","), DialTimeout: dialTime})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()

	calls := make([]call, callers)
	for caller := range calls {
		if calls[caller], err = begin(ctx, client, caller); err != nil {
			return err
		}
	}

	var group sync.WaitGroup
	var next int64
	took := make([][]time.Duration, callers)
	failures := make([]error, callers)
	began := time.Now()
	for caller := range calls {
		group.Add(1)
		go func(caller int) {
			defer group.Done()
			for atomic.AddInt64(&next, 1) <= int64(total) {
				before := time.Now()
				if err := calls[caller](ctx); err != nil {
					failures[caller] = err
					return
				}
				took[caller] = append(took[caller], time.Since(before))
			}
		}(caller)
	}
	group.Wait()
	seconds := time.Since(began).Seconds()

	var all []time.Duration
	for caller, mine := range took {
		if failures[caller] != nil {
			return failures[caller]
		}
		all = append(all, mine...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"ops":     float64(len(all)),
		"seconds": seconds,
		"p50_us":  float64(all[len(all)/2].Nanoseconds()) / 1e3,
	})
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: goload HOST:PORT[,HOST:PORT...] OPERATION CALLERS TOTAL")
		os.Exit(2)
	}
	callers, err := strconv.Atoi(os.Args[3])
	total, otherErr := strconv.Atoi(os.Args[4])
	if err != nil || otherErr != nil || callers < 1 || total < 1 {
		fmt.Fprintln(os.Stderr, "CALLERS and TOTAL are whole numbers above 0")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], callers, total); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
