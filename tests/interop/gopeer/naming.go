package main

import (
	"context"
	"encoding/json"
	"errors"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/naming/endpoints"
	"go.etcd.io/etcd/clientv3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"
)

const askTime = 30 * time.Second

// namingSteps are those of services and their instances, clientv3/naming:
//
//	add-endpoint SERVICE KEY ADDRESS METADATA   under the session's lease; METADATA is JSON without spaces
//	delete-endpoint SERVICE KEY
//	list SERVICE                                tells the endpoints, as JSON by key
//	follow SERVICE | news                       news tells the next changes, as JSON
//	dial SERVICE POLICY                         gRPC by etcd's resolver, balanced by that policy of gRPC's
//	ask COUNT                                   calls until so many instances have answered; tells their addresses
func namingSteps(shared *peer) map[string]step {
	ctx := context.Background()
	var changes endpoints.WatchChannel
	var connection *grpc.ClientConn
	manager := func(service string) endpoints.Manager {
		made, err := endpoints.NewManager(shared.client, service)
		must(err)
		return made
	}
	return map[string]step{
		"add-endpoint": func(words []string) (string, error) {
			endpoint := endpoints.Endpoint{Addr: words[2]}
			must(json.Unmarshal([]byte(words[3]), &endpoint.Metadata))
			return "", manager(words[0]).AddEndpoint(
				ctx, words[1], endpoint, clientv3.WithLease(shared.session.Lease()))
		},
		"delete-endpoint": func(words []string) (string, error) {
			return "", manager(words[0]).DeleteEndpoint(ctx, words[1])
		},
		"list": func(words []string) (string, error) {
			found, err := manager(words[0]).List(ctx)
			return told(found), err
		},
		"follow": func(words []string) (string, error) {
			made, err := manager(words[0]).NewWatchChannel(ctx)
			changes = made
			return "", err
		},
		"news": func([]string) (string, error) { return told(<-changes), nil },
		"dial": func(words []string) (string, error) {
			builder, err := resolver.NewBuilder(shared.client)
			must(err)
			policy := `{"loadBalancingPolicy":"` + words[1] + `"}`
			made, err := grpc.Dial("etcd:///"+words[0], grpc.WithInsecure(),
				grpc.WithResolvers(builder), grpc.WithDefaultServiceConfig(policy))
			connection = made
			return "", err
		},
		"ask": func(words []string) (string, error) { return ask(connection, number(words[0])) },
	}
}

// ask calls the health service until so many instances have answered, and then as often again without another one.
func ask(connection *grpc.ClientConn, count int) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	health := grpc_health_v1.NewHealthClient(connection)
	var reached grpcpeer.Peer
	answered := map[string]bool{}
	same := 0
	for len(answered) != count || same < 2*count {
		_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{},
			grpc.WaitForReady(true), grpc.Peer(&reached))
		if ctx.Err() != nil {
			return "", errors.New("answered: " + joined(answered))
		}
		if err != nil { // of a connection to an instance that has just left
			continue
		}
		if len(answered) > count {
			answered = map[string]bool{}
		}
		if same++; !answered[reached.Addr.String()] {
			answered[reached.Addr.String()] = true
			same = 0
		}
	}
	return joined(answered), nil
}

func joined(addresses map[string]bool) string {
	var all []string
	for address := range addresses {
		all = append(all, address)
	}
	sort.Strings(all)
	return strings.Join(all, " ")
}

func told(found interface{}) string {
	text, err := json.Marshal(found)
	must(err)
	return string(text)
}
