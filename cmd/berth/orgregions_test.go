package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/berthhq/berth/cmd/internal/dev"
	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens/api"
)

// europeanOnly is an organization that may be in two of three regions, with sessions of users whose names occur nowhere else.
type europeanOnly struct {
	*processes
	t       *testing.T
	client  client
	outside string
	words   []string
	// mu guards heard: what was said in the region outside.
	mu    sync.Mutex
	heard []*nats.Msg
}

// TestOrgRegions loses one of two allowed regions, then the servers of the other, while somebody in the third hears all that is
// said there.
func TestOrgRegions(t *testing.T) {
	t.Parallel() // it mostly waits
	began := time.Now()
	phase := func(what string) { t.Logf("%s after %s", what, time.Since(began).Round(100*time.Millisecond)) }
	first, second, outside := "eu-west-1", "eu-central-1", "us-east-1"
	e := &europeanOnly{
		processes: startProcessesIn(t, "eu="+first+"+"+second, nil, second, first, outside), t: t, client: client{t: t}, outside: outside,
	}
	phase("up")
	spy := e.listen()
	at := dev.Ready{Regions: e.ready.Regions[2:]} // the change is asked for in the region outside
	stdout, stderr, code := operatorCommand(t, at, "", "org", "set", "acme", "--allowed", first+","+second, "--home", first, "--jurisdiction", "eu")
	if code != 0 || !strings.Contains(stdout, "allowed all -> eu-central-1,eu-west-1") {
		t.Fatalf("exit code %d, %q, %q", code, stdout, stderr)
	}
	e.awaitOrg(first, second, outside)
	phase("known")

	sessions := e.begin(first, 4)
	for _, path := range []string{e.regions[outside].way.URL, e.ready.Regions[2].Servers[0].URL} {
		e.sentOn(path, &sessions[0], first)
	}
	// The client goes where it was sent, by whichever of its fallbacks: all of them are allowed.
	for _, s := range sessions {
		if len(s.Fallbacks) != 1 || s.Fallbacks[0].Region != second {
			t.Errorf("fallbacks %v", s.Fallbacks)
		}
	}
	e.awaitCopies(second, len(sessions))

	e.operated(outside, first, len(sessions))
	phase("copied")
	e.kill(first)
	e.goOn(sessions, second)
	phase("taken over")
	for _, s := range e.regions[second].servers {
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	e.stranded(second, &sessions[0])
	phase("refused there")
	e.stranded(outside, nil)
	phase("refused outside")
	e.silent(spy)
}

// listen subscribes to everything in the region outside.
func (e *europeanOnly) listen() *jetstream.Conn {
	e.t.Helper()
	conn := jetstreamtest.Dial(e.t, e.regions[e.outside].nats.ClientURL())
	_, err := conn.NATS().Subscribe(">", func(m *nats.Msg) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.heard = append(e.heard, m)
	})
	if err == nil {
		err = conn.NATS().Flush()
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return conn
}

// awaitOrg waits until regions know the organization.
func (e *europeanOnly) awaitOrg(regions ...string) {
	e.t.Helper()
	for _, region := range regions {
		eventually(e.t, 5*time.Second, region+" knows the organization", func() bool {
			var o api.OrgReply
			status, _ := e.client.call("GET", e.regions[region].way.URL+"/v1/orgs/acme", "", nil, &o)
			return status == http.StatusOK && len(o.AllowedRegions) == 2
		})
	}
}

// begin starts sessions, as the application's own login would.
func (e *europeanOnly) begin(region string, n int) []api.TokensReply {
	e.t.Helper()
	conn := jetstreamtest.Dial(e.t, e.regions[region].nats.ClientURL())
	list := make([]api.TokensReply, n)
	for i := range list {
		user := fmt.Sprintf("wilhelmina-%d", i)
		answer, err := conn.Call(e.t.Context(), service.TokensMethod(events.GlobalJurisdiction, region, api.MethodStart), nil,
			fmt.Appendf(nil, `{"subject":%q,"org":"acme"}`, user))
		if err == nil {
			err = json.Unmarshal(answer.Data, &list[i])
		}
		if err != nil || list[i].Server.Region != region {
			e.t.Fatalf("start session %d in %s: %s, %v", i, region, answer.Data, err)
		}
		e.words = append(e.words, user, list[i].SessionID)
		list[i] = e.client.refresh(list[i].AuthURL, api.RefreshRequest{RefreshToken: list[i].RefreshToken}) // through the regional server
	}
	return list
}

// sentOn refreshes in the region outside.
func (e *europeanOnly) sentOn(base string, s *api.TokensReply, to string) {
	e.t.Helper()
	var p api.Problem
	status, body := e.client.call("POST", base+"/v1/refresh", "", api.RefreshRequest{RefreshToken: s.RefreshToken}, &p)
	if status != http.StatusMisdirectedRequest || p.Code != string(api.CodeLockedElsewhere) || p.Server == nil || p.Server.Region != to {
		e.t.Fatalf("a refresh outside: %d %s", status, body)
	}
	*s = e.client.refresh(p.Server.URL, api.RefreshRequest{RefreshToken: s.RefreshToken})
}

// operated looks at the sessions as operators do, from outside and inside.
func (e *europeanOnly) operated(outside, inside string, n int) {
	e.t.Helper()
	for _, c := range []struct {
		region, want string
		code         int
	}{{outside, "region us-east-1 is not in jurisdiction eu", 1}, {inside, fmt.Sprintf("%d sessions\n", n), 0}} {
		at := dev.Ready{Regions: []dev.ReadyRegion{{NATSURL: e.regions[c.region].nats.ClientURL()}}}
		stdout, stderr, code := operatorCommand(e.t, at, "", "sessions", "list", "--count", "--org", "acme", "--jurisdiction", "eu")
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			e.t.Errorf("sessions as of %s: exit code %d, %q, %q", c.region, code, stdout, stderr)
		}
	}
}

// awaitCopies waits until a region has copies of so many sessions.
func (e *europeanOnly) awaitCopies(region string, n int) {
	e.t.Helper()
	js := jetstreamtest.Dial(e.t, e.regions[region].nats.ClientURL()).JetStream()
	eventually(e.t, 10*time.Second, "copies", func() bool {
		return strings.Count(e.stored(js, jetstream.StreamCopies), `"subject":"wilhelmina-`) >= n
	})
}

// stored returns all that a stream holds.
func (e *europeanOnly) stored(js natsjs.JetStream, name string) string {
	e.t.Helper()
	stream, err := js.Stream(e.t.Context(), name)
	if err != nil {
		e.t.Fatal(err)
	}
	var all strings.Builder
	for state, seq := stream.CachedInfo().State, stream.CachedInfo().State.FirstSeq; seq <= state.LastSeq; seq++ {
		if m, err := stream.GetMsg(e.t.Context(), seq); err == nil { // else it is gone
			fmt.Fprintln(&all, m.Subject, m.Header, string(m.Data))
		}
	}
	return all.String()
}

// kill ends every process of a region.
func (e *europeanOnly) kill(region string) {
	e.t.Helper()
	r := e.regions[region]
	r.nats.Kill()
	for _, p := range append([]*process{r.registry, r.tokens}, r.servers[region+"-a"], r.servers[region+"-b"]) {
		if err := p.cmd.Process.Kill(); err != nil {
			e.t.Fatal(err)
		}
	}
}

// goOn refreshes sessions through the region that is left until that goes on with each.
func (e *europeanOnly) goOn(list []api.TokensReply, region string) {
	e.t.Helper()
	until := time.Now().Add(20 * time.Second)
	several(len(list), func(i int) {
		for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
			var reply api.TokensReply
			status, body := e.try(region, &list[i], &reply)
			switch {
			case status == http.StatusOK && reply.Server.Region == region && reply.Notice != nil && reply.Notice.Code == api.NoticeCodeTemporaryRegion:
				list[i] = reply
				return
			case status != http.StatusServiceUnavailable || time.Now().After(until):
				e.t.Errorf("session %d does not go on: %d %s", i, status, body)
				return
			}
		}
	})
}

// try refreshes a session through a region's token service.
func (e *europeanOnly) try(region string, s *api.TokensReply, out any) (status int, body string) {
	return e.client.call("POST", e.regions[region].way.URL+"/v1/refresh", "", api.RefreshRequest{RefreshToken: s.RefreshToken}, out)
}

// stranded waits until a refresh, or a login if there is no session, is told that no allowed region is left.
func (e *europeanOnly) stranded(region string, s *api.TokensReply) {
	e.t.Helper()
	eventually(e.t, 15*time.Second, "no region is left, as of "+region, func() bool {
		var p api.Problem
		if s != nil {
			status, body := e.try(region, s, &p)
			if status == http.StatusOK {
				if err := json.Unmarshal([]byte(body), s); err != nil || s.Server.Region == e.outside {
					e.t.Fatalf("%d %s", status, body)
				}
			}
			return status == http.StatusServiceUnavailable && p.Code == string(api.CodeNoAllowedRegion)
		}
		var c api.Problem
		status, _ := e.client.call("GET", e.regions[region].way.URL+"/v1/closestToMe?org=acme", "", nil, &c)
		return status == http.StatusServiceUnavailable && c.Code == string(api.CodeNoAllowedRegion)
	})
}

// silent fails if anything of the sessions was said, stored or logged in the region outside.
func (e *europeanOnly) silent(conn *jetstream.Conn) {
	e.t.Helper()
	e.mu.Lock()
	if len(e.heard) == 0 {
		e.t.Error("nothing was heard at all")
	}
	for _, m := range e.heard {
		text := append([]byte(fmt.Sprint(m.Subject, " ", m.Reply, " ", m.Header, " ")), m.Data...)
		for _, word := range e.words {
			if bytes.Contains(text, []byte(word)) {
				e.t.Errorf("%s was said outside on %s", word, m.Subject)
			}
		}
	}
	e.mu.Unlock()
	js := conn.JetStream()
	names, streams := js.StreamNames(e.t.Context()), 0
	for name := range names.Name() {
		streams++
		all := e.stored(js, name)
		for _, word := range e.words {
			if strings.Contains(all, word) {
				e.t.Errorf("%s stands in %s outside", word, name)
			}
		}
	}
	if names.Err() != nil || streams < 5 {
		e.t.Errorf("%d streams, %v", streams, names.Err())
	}
	r := e.regions[e.outside]
	for _, p := range append([]*process{r.registry, r.tokens}, r.servers[e.outside+"-a"], r.servers[e.outside+"-b"]) {
		for _, word := range e.words {
			if strings.Contains(p.stdout.String()+p.stderr.String(), word) {
				e.t.Errorf("%s was logged outside", word)
			}
		}
	}
}
