package main

import (
	"bufio"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/residency"
)

// TestProcesses runs the main job on separate processes: a NATS server for each of three
// regions and one for the hub, and a registry, a token service and two servers in each.
func TestProcesses(t *testing.T) {
	t.Parallel() // it mostly waits
	mainJob(t, startProcesses(t, "us-east-1", "eu-west-1", "ap-southeast-1").ready)
}

// processes is a fleet of separate processes.
type processes struct {
	ready   dev.Ready
	regions map[string]*regionProcesses
	// links are between the regions and the hub.
	links map[string]*jetstreamtest.Proxy
}

// regionProcesses are the services of a region and how they were started.
type regionProcesses struct {
	nats                     *jetstreamtest.Process
	registry, tokens         *process
	registryArgs, tokensArgs []string
	way                      dev.Way
	// servers are the demo servers by their ids.
	servers map[string]*process
}

// startProcesses runs a fleet as its operators would.
func startProcesses(t *testing.T, regions ...string) *processes {
	t.Helper()
	return startProcessesIn(t, "", nil, regions...)
}

// startProcessesIn runs one with a jurisdiction, as --jurisdictions has it, and with further flags of the token services;
// organizations of a jurisdiction are changed in the first region.
func startProcessesIn(t *testing.T, jurisdiction string, flags []string, regions ...string) *processes {
	t.Helper()
	var sets residency.Jurisdictions
	if jurisdiction != "" {
		var err error
		if sets, err = residency.ParseJurisdictions([]string{jurisdiction}); err != nil {
			t.Fatal(err)
		}
		flags = append([]string{"--jurisdictions", jurisdiction, "--primary-region", regions[0]}, flags...)
	}
	dir := t.TempDir()
	program := tool(t, "nats-server")
	hub := jetstreamtest.StartProcess(t, jetstreamtest.ProcessConfig{Binary: program})
	users := filepath.Join(dir, "users.yaml")
	hash := berth(t.Context(), t, "user", "hash", "ada", "--scope", "orders")
	hash.Stdin = strings.NewReader("ada-dev\n")
	entry, err := hash.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, entry, 0o600); err != nil {
		t.Fatal(err)
	}
	// The front is the geo-DNS's stand-in. Its URL is the issuer, so it has to be known first.
	front := httptest.NewUnstartedServer(nil)
	f := &processes{regions: map[string]*regionProcesses{}, links: map[string]*jetstreamtest.Proxy{}, ready: dev.Ready{
		GlobalURL: "http://" + front.Listener.Addr().String(),
		Users:     []dev.User{{Username: "ada", Password: "ada-dev"}},
	}}
	var ways []dev.Way
	for _, name := range regions {
		f.links[name] = jetstreamtest.NewProxy(t, hub.LeafURL())
		nats := jetstreamtest.StartProcess(t, jetstreamtest.ProcessConfig{
			Binary: program, Region: name, Hubs: []string{"nats-leaf://" + f.links[name].Addr()},
			Foreign: sets.Foreign(name),
		})
		f.startRegion(t, dir, name, nats, users, slices.Concat(edges(name, regions), flags)...)
		ways = append(ways, f.regions[name].way)
	}
	front.Config.Handler = dev.NewFront(ways)
	front.Start()
	t.Cleanup(front.Close)
	for _, way := range ways {
		f.awaitKnown(t, way)
	}
	return f
}

// edges returns the flag that names every other region, none where there is none.
func edges(name string, regions []string) []string {
	others := slices.DeleteFunc(slices.Clone(regions), func(r string) bool { return r == name })
	if len(others) == 0 {
		return nil
	}
	return []string{"--edges", strings.Join(others, ",")}
}

// awaitKnown waits until a token service knows every server and key.
func (f *processes) awaitKnown(t *testing.T, way dev.Way) {
	t.Helper()
	c := client{t: t}
	for _, r := range f.ready.Regions {
		eventually(t, 30*time.Second, "servers of "+r.Region+" at "+way.URL, func() bool {
			_, body := c.call("GET", way.Admin+"/v1/servers", "", nil, nil)
			_, keys := c.call("GET", way.URL+"/.well-known/jwks.json", "", nil, nil)
			return strings.Contains(body, r.Servers[0].ID) && strings.Contains(body, r.Servers[1].ID) &&
				strings.Contains(keys, `"`+r.Region+".")
		})
	}
}

// startRegion runs the services and servers of a region.
func (f *processes) startRegion(t *testing.T, dir, name string, server *jetstreamtest.Process, users string, more ...string) {
	t.Helper()
	nats := server.ClientURL()
	key := filepath.Join(dir, name+".key")
	if out, err := berth(t.Context(), t, "keys", "generate", "--out", key).CombinedOutput(); err != nil {
		t.Fatalf("generate key: %v\n%s", err, out)
	}
	// The ports are fixed, so that a service that is started again is found where it was.
	listen, admin := jetstreamtest.FreePort(t), jetstreamtest.FreePort(t)
	r := &regionProcesses{
		nats:         server,
		servers:      map[string]*process{},
		registryArgs: []string{"registry", "--nats", nats, "--region", name, "--admin", "127.0.0.1:0"},
		tokensArgs: append([]string{
			"tokens", "--nats", nats, "--region", name, "--listen", fmt.Sprintf("127.0.0.1:%d", listen),
			"--admin", fmt.Sprintf("127.0.0.1:%d", admin), "--issuer", f.ready.GlobalURL,
			"--key-file", key, "--users-file", users, "--trust-location",
		}, more...),
	}
	r.registry, r.tokens = start(t, r.registryArgs...), start(t, r.tokensArgs...)
	region := dev.ReadyRegion{Region: name, NATSURL: nats, TokensURL: said(t, r.tokens, "serving on ")}
	f.regions[name] = r
	for _, suffix := range []string{"a", "b"} {
		id := name + "-" + suffix
		s := f.startServer(t, name, id, nats)
		region.Servers = append(region.Servers, dev.ReadyServer{ID: id, URL: said(t, s, "serving on "), PID: s.cmd.Process.Pid})
	}
	r.way = dev.Way{Region: name, URL: region.TokensURL, Admin: said(t, r.tokens, "admin on ")}
	f.ready.Regions = append(f.ready.Regions, region)
}

// startServer runs a demo server, which may have run before.
func (f *processes) startServer(t *testing.T, region, id, nats string) *process {
	t.Helper()
	s := start(t, "demo", "--nats", nats, "--region", region, "--server", id, "--listen", "127.0.0.1:0",
		"--issuer", f.ready.GlobalURL, "--location", dev.Location(region).String(), "--drain", "0s", "--capacity", "100000") // room for all that tests begin
	f.regions[region].servers[id] = s
	return s
}

// said waits for a line with the prefix and returns the rest of it.
func said(t *testing.T, p *process, prefix string) string {
	t.Helper()
	var rest string
	p.eventually(t, 30*time.Second, fmt.Sprintf("a line %q", prefix), func() bool {
		lines := bufio.NewScanner(strings.NewReader(p.stdout.String()))
		for lines.Scan() {
			var ok bool
			if rest, ok = strings.CutPrefix(lines.Text(), prefix); ok {
				return true
			}
		}
		return false
	})
	return rest
}

// tool returns the path of a program of the tools module, built into Go's cache.
func tool(t *testing.T, name string) string {
	t.Helper()
	mod, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "tools")
	path, err := exec.CommandContext(t.Context(), "go", "tool", "-C", dir, "-n", name).Output()
	if err != nil {
		t.Fatalf("build %s: %v", name, err)
	}
	return strings.TrimSpace(string(path))
}
