package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// fleetSessions is a fleet of three regions, and how its sessions are begun, refreshed and looked
// at from outside.
type fleetSessions struct {
	*processes
	t *testing.T
	// lost is the region that dies or is cut off, others are the two that go on.
	lost   string
	others []string
	http   *http.Client
}

func newFleetSessions(t *testing.T, flags ...string) *fleetSessions {
	t.Helper()
	f := &fleetSessions{
		t: t, lost: "eu-west-1", others: []string{"us-east-1", "ap-southeast-1"},
		http: &http.Client{Timeout: 12 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	f.processes = startProcessesIn(t, "", flags, append([]string{f.lost}, f.others...)...)
	t.Cleanup(f.http.CloseIdleConnections)
	return f
}

// post sends a request, with an access token if there is one; status 0 says that there was no
// answer.
func (f *fleetSessions) post(url, access string, in, out any) (status int, text string) {
	data, err := json.Marshal(in)
	if err != nil {
		return 0, err.Error()
	}
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return 0, err.Error()
	}
	if access != "" {
		r.Header.Set("Authorization", "Bearer "+access)
	}
	resp, err := f.http.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK && out != nil {
		err = json.Unmarshal(body, out)
	}
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// refresh redeems a token through a region's token service.
func (f *fleetSessions) refresh(through string, q api.RefreshRequest) (reply api.TokensReply, status int, text string) {
	status, text = f.post(f.regions[through].way.URL+"/v1/refresh", "", q, &reply)
	if status == http.StatusOK && !reply.Rotated {
		reply.RefreshToken = q.RefreshToken // it is as good as before
	}
	return reply, status, text
}

// use sends a request to the server that a session was told of.
func (f *fleetSessions) use(s api.TokensReply) (status int, text string) {
	return f.post(s.Server.URL+"/api/cart", s.AccessToken, map[string]any{"items": []string{"tea"}}, nil)
}

// begin starts sessions in a region, as the application's own login would.
func (f *fleetSessions) begin(region string, n int) []api.TokensReply {
	f.t.Helper()
	conn := jetstreamtest.Dial(f.t, f.regions[region].nats.ClientURL())
	list := make([]api.TokensReply, n)
	several(n, func(i int) {
		answer, err := conn.Call(f.t.Context(), service.TokensMethod(events.GlobalJurisdiction, region, api.MethodStart), nil,
			fmt.Appendf(nil, `{"subject":"user-%d"}`, i))
		if err == nil {
			err = json.Unmarshal(answer.Data, &list[i])
		}
		if err != nil || list[i].Server.Region != region {
			f.t.Errorf("start session %d in %s: on %+v: %v", i, region, list[i].Server, err)
		}
	})
	if f.t.Failed() {
		f.t.FailNow()
	}
	return list
}

// several calls fn with each number below n, some at once.
func several(n int, fn func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(n, 16) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				fn(i)
			}
		})
	}
	all.Wait()
}

// keep returns those of a list for which ok says no, some asked at once, and one of its reasons.
func keep[T any](list []T, ok func(T) (reason string)) (left []T, reason string) {
	reasons := make([]string, len(list))
	several(len(list), func(i int) { reasons[i] = ok(list[i]) })
	for i, r := range reasons {
		if r != "" {
			left, reason = append(left, list[i]), r
		}
	}
	return left, reason
}

// awaitAll waits until ok has no objection to any of the list any more, and returns how long
// that took.
func awaitAll[T any](t *testing.T, limit time.Duration, what string, list []T, ok func(T) (reason string)) time.Duration {
	t.Helper()
	began := time.Now()
	reason := ""
	eventually(t, 2*limit+10*time.Second, what, func() bool {
		list, reason = keep(list, ok)
		return len(list) == 0 || time.Since(began) > limit
	})
	if len(list) > 0 {
		t.Fatalf("%s: not of %d sessions within %s, as of this: %s", what, len(list), limit, reason)
	}
	return time.Since(began)
}

// fate is what has to become of a session.
type fate struct {
	session string
	ended   bool
}

func (a fate) key() sessions.Key {
	return sessions.Key{Jurisdiction: events.GlobalJurisdiction, Session: a.session}
}

// stores returns what each region has written of its sessions.
func (f *fleetSessions) stores() map[string]*jetstream.Records {
	m := map[string]*jetstream.Records{}
	for name, r := range f.regions {
		m[name] = jetstreamtest.Dial(f.t, r.nats.ClientURL()).Records()
	}
	return m
}

// awaitOwners waits until each session has one owner, or has ended in every region that knows it.
func (f *fleetSessions) awaitOwners(limit time.Duration, fates []fate) time.Duration {
	f.t.Helper()
	stores := f.stores()
	return awaitAll(f.t, limit, "one owner of each session", fates, func(a fate) string {
		active, ended, known, text := 0, 0, 0, ""
		for name, store := range stores {
			rec, _, err := store.Get(f.t.Context(), a.key())
			if errors.Is(err, sessions.ErrNotFound) {
				continue
			}
			if err != nil {
				return err.Error()
			}
			known++
			text += fmt.Sprintf(" %s: %s %s", name, rec.State, rec.Current())
			switch rec.State {
			case sessions.StateActive:
				active++
			case sessions.StateRevoked:
				ended++
			case sessions.StateMoved:
			case sessions.StateMoving, sessions.StatePrepared:
				return "unsettled session " + a.session + ":" + text
			}
		}
		if a.ended && ended == known && ended > 0 || !a.ended && active == 1 && ended == 0 {
			return ""
		}
		return fmt.Sprintf("session %s, ended: %t:%s", a.session, a.ended, text)
	})
}

// awaitCopies waits until the other regions have what was written before.
func (f *fleetSessions) awaitCopies(limit time.Duration, fates []fate) {
	f.t.Helper()
	for _, name := range f.others {
		copies := jetstreamtest.Dial(f.t, f.regions[name].nats.ClientURL()).Copies(jetstream.CopiesConfig{Log: jetstreamtest.Log(f.t)})
		awaitAll(f.t, limit, "copies in "+name, fates, func(a fate) string {
			list, err := copies.Copies(f.t.Context(), a.key())
			if err != nil || len(list) == 0 || a.ended && list[0].Record.State != sessions.StateRevoked {
				return fmt.Sprintf("session %s: %d copies, %v", a.session, len(list), err)
			}
			return ""
		})
	}
}
