package embedded_test

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream/embedded"
)

// freePort returns a port that nobody listened on a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestNoHubIsASinglePointOfFailure joins two regions through two hubs and stops one.
func TestNoHubIsASinglePointOfFailure(t *testing.T) {
	ports := []int{freePort(t), freePort(t)}
	var routes []string
	for _, port := range ports {
		routes = append(routes, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	var hubs []*embedded.Hub
	for i, port := range ports {
		hub, err := embedded.NewHub(embedded.HubConfig{
			Cluster: &embedded.Cluster{Node: "hub-" + strconv.Itoa(i), Port: port, Routes: routes},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := hub.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = hub.Shutdown() })
		hubs = append(hubs, hub)
	}
	first, second := hubs[0].LeafURL(), hubs[1].LeafURL()
	eu := startRegion(t, embedded.RegionConfig{Region: "eu-west-1", Hubs: []string{first, second}})
	us := startRegion(t, embedded.RegionConfig{Region: "us-east-1", Hubs: []string{second}})

	heard := make(chan *nats.Msg, 1024)
	to, err := nats.Connect(us.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := to.ChanSubscribe("berth.v1.view.*", heard); err != nil {
		t.Fatal(err)
	}
	from, err := nats.Connect(eu.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	arrives := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			if err := from.Publish("berth.v1.view.eu-west-1", nil); err != nil {
				t.Fatal(err)
			}
			select {
			case <-heard:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	arrives("nothing crosses two hubs")
	if err := hubs[0].Shutdown(); err != nil {
		t.Fatal(err)
	}
	for len(heard) > 0 {
		<-heard
	}
	arrives("nothing crosses the hub that is left")
}
