package jetstreamtest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/jetstream/embedded"
)

// Fleet is a hub with regions around it, each behind a link of its own that can be cut.
type Fleet struct {
	Hub     *embedded.Hub
	Regions map[string]*embedded.Region
	Links   map[string]*Proxy
}

// NewFleet starts a hub and the regions, and waits until all have joined. foreign, which may be nil, holds for each
// region the jurisdictions that it is no member of.
func NewFleet(t testing.TB, foreign map[string][]string, regions ...string) *Fleet {
	t.Helper()
	hub, err := embedded.NewHub(embedded.HubConfig{})
	if err == nil {
		err = hub.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hub.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	f := &Fleet{Hub: hub, Regions: map[string]*embedded.Region{}, Links: map[string]*Proxy{}}
	for _, name := range regions {
		f.Links[name] = NewProxy(t, hub.LeafURL())
		f.Regions[name] = Start(t, embedded.RegionConfig{Region: name, Hubs: []string{f.Links[name].Addr()}, Foreign: foreign[name]})
	}
	f.WaitJoined(t)
	return f
}

// WaitJoined waits until the link of each region stands, seen from both sides.
func (f *Fleet) WaitJoined(t testing.TB) {
	t.Helper()
	Eventually(t, 10*time.Second, "all regions joined the hub", func() bool {
		for _, r := range f.Regions {
			if !r.Joined() {
				return false
			}
		}
		return f.Hub.Leaves() == len(f.Regions)
	})
}

// Cluster is one region of several nodes.
type Cluster struct {
	Nodes []*embedded.Region
}

// NewCluster starts a region of n nodes, three as a rule, joined to the hubs if there are any, and waits until JetStream
// has a leader that sees them all.
func NewCluster(t testing.TB, region string, n int, hubs ...string) *Cluster {
	t.Helper()
	var ports []int
	var routes []string
	for range n {
		port := FreePort(t)
		ports = append(ports, port)
		routes = append(routes, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	c := &Cluster{}
	for i, port := range ports {
		c.Nodes = append(c.Nodes, Start(t, embedded.RegionConfig{
			Region:  region,
			Hubs:    hubs,
			Cluster: &embedded.Cluster{Node: fmt.Sprintf("%s-n%d", region, i+1), Port: port, Routes: routes},
		}))
	}
	c.WaitReady(t)
	return c
}

// WaitReady waits until JetStream has a leader that sees every running node.
func (c *Cluster) WaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, 30*time.Second, "the cluster has a JetStream leader", func() bool {
		running, seen := 0, 0
		for _, node := range c.Nodes {
			srv := node.Server()
			if srv == nil {
				continue
			}
			running++
			if srv.JetStreamIsLeader() {
				seen = len(srv.JetStreamClusterPeers())
			}
		}
		return seen >= running && running > 0
	})
}

// URL returns where clients connect: all nodes, separated by commas.
func (c *Cluster) URL() string {
	var urls []string
	for _, node := range c.Nodes {
		urls = append(urls, node.ClientURL())
	}
	return strings.Join(urls, ",")
}

// Leader returns the node that leads a stream.
func (c *Cluster) Leader(t testing.TB, js natsjs.JetStream, stream string) *embedded.Region {
	t.Helper()
	var leader *embedded.Region
	Eventually(t, 15*time.Second, "stream "+stream+" has a leader", func() bool {
		s, err := js.Stream(t.Context(), stream)
		if err != nil || s.CachedInfo().Cluster == nil {
			return false
		}
		for _, node := range c.Nodes {
			if srv := node.Server(); srv != nil && srv.Name() == s.CachedInfo().Cluster.Leader {
				leader = node
				return true
			}
		}
		return false
	})
	return leader
}
