package tokens_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// operate asks as an operator does. A refusal is returned as its code.
func operate[Out any](t *testing.T, s *tokens.Service, method string, in any) (out Out, code api.Code) {
	t.Helper()
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return operateRaw[Out](t, s, "global", method, string(data))
}

func operateRaw[Out any](t *testing.T, s *tokens.Service, jurisdiction, method, body string) (out Out, code api.Code) {
	t.Helper()
	header, data := s.ServeOperator(t.Context(), jurisdiction, method, nil, []byte(body))
	if status := http.Header(header).Get(api.HeaderStatus); status != "200" {
		var p api.Problem
		if err := json.Unmarshal(data, &p); err != nil || fmt.Sprint(p.Status) != status {
			t.Fatalf("%s: status %s, body %q: %v", method, status, data, err)
		}
		return out, api.Code(p.Code)
	}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatalf("%s: %q: %v", method, data, err)
	}
	return out, ""
}

// heard collects the events on a subject.
func heard[E events.Event](t *testing.T, conn *jetstream.Conn, subject string) func() []E {
	t.Helper()
	var mu sync.Mutex
	var list []E
	stop, err := conn.Subscribe(t.Context(), subject, func(subject string, data []byte) {
		e, err := events.Decode(subject, data)
		if err != nil {
			t.Errorf("event on %s: %v", subject, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		list = append(list, e.(E))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return func() []E {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
}

// putRecord writes a record of a session that another test has not.
func (f *fleet) putRecord(session string, change ...func(*sessions.Record)) sessions.Record {
	f.t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	rec := sessions.Start(sessions.Record{
		Session: session, Jurisdiction: "global", Subject: "ada", ClientID: "berth", StartedAt: now, ExpiresAt: now.Add(time.Hour),
	}, dublin, sessions.Answer{Server: "a", Region: dublin, Fallbacks: []sessions.Fallback{}}, "op-"+session, now)
	for _, fn := range change {
		fn(&rec)
	}
	if _, err := f.conn.Records().Put(f.t.Context(), rec, 0); err != nil {
		f.t.Fatal(err)
	}
	return rec
}

func TestOperatorsListSessions(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.service()
	for i := range 25 {
		f.putRecord(fmt.Sprintf("s%02d", i), func(r *sessions.Record) {
			r.Org = []string{"acme", "bolt"}[i%2]
			if i == 7 {
				*r = r.Revoke("op")
			}
			if i == 8 {
				r.Server, r.Answer.Region = "x", "us-east-1"
			}
			if i == 9 {
				r.Subject = "<bob>"
			}
		})
	}
	if _, err := f.conn.Bucket(jetstream.BucketSessions).Put(t.Context(), "global.broken", []byte("{"), 0, 0); err != nil {
		t.Fatal(err)
	}
	f.putRecord("theirs", func(r *sessions.Record) { r.Org, r.Epoch.Region = "theirs", "us-east-1" })
	f.putRecord("elsewhere", func(r *sessions.Record) { r.Jurisdiction = "eu" })

	var ids []string
	pages := 0
	for q := (tokens.SessionsRequest{Limit: 10}); ; pages++ {
		reply, code := operate[tokens.SessionsReply](t, s, tokens.MethodSessions, q)
		if code != "" || len(reply.Sessions) > 10 || pages > 3 {
			t.Fatalf("page %d: %s, %+v", pages, code, reply)
		}
		for _, e := range reply.Sessions {
			ids = append(ids, e.Session)
		}
		if q.Cursor = reply.Cursor; q.Cursor == "" {
			if reply.Unreadable != 1 {
				t.Errorf("unreadable %d, want 1", reply.Unreadable)
			}
			break
		}
	}
	if len(ids) != 25 || !slices.IsSorted(ids) {
		t.Errorf("listed %v", ids)
	}
	for _, c := range []struct {
		filter tokens.SessionFilter
		want   int
	}{
		{tokens.SessionFilter{}, 25},
		{tokens.SessionFilter{Org: "acme"}, 13},
		{tokens.SessionFilter{Org: "bolt", State: sessions.StateActive}, 11},
		{tokens.SessionFilter{State: sessions.StateRevoked}, 1},
		{tokens.SessionFilter{Server: "x"}, 1},
		{tokens.SessionFilter{Region: "us-east-1"}, 1},
		{tokens.SessionFilter{Region: dublin}, 25},
		{tokens.SessionFilter{Subject: "<bob>"}, 1},
		{tokens.SessionFilter{Subject: "*"}, 0},
		{tokens.SessionFilter{Org: "theirs"}, 0}, // its owner lists it
		{tokens.SessionFilter{Org: "theirs", State: sessions.StateActive}, 1},
		{tokens.SessionFilter{Subject: "ada", Org: "nobody"}, 0},
	} {
		reply, code := operate[tokens.SessionsReply](t, s, tokens.MethodSessions, tokens.SessionsRequest{SessionFilter: c.filter, Count: true})
		if code != "" || reply.Matched != c.want || len(reply.Sessions) != 0 || reply.Cursor != "" {
			t.Errorf("%+v: %s, %+v, want %d", c.filter, code, reply, c.want)
		}
	}
	if reply, _ := operateRaw[tokens.SessionsReply](t, s, "eu", tokens.MethodSessions, "{}"); len(reply.Sessions) != 1 {
		t.Errorf("of another jurisdiction: %+v", reply)
	}
}

func TestOperatorsSeeNoSecret(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.service()
	l := login(t, s)
	rec := f.record(l.SessionID)
	body := fmt.Sprintf(`{"session":%q}`, l.SessionID)
	_, data := s.ServeOperator(t.Context(), "global", tokens.MethodSession, nil, []byte(body))
	for _, secret := range []string{rec.Hash, rec.Answer.KID, l.AccessToken, l.RefreshToken} {
		if strings.Contains(string(data), secret) {
			t.Errorf("%s shows %s", data, secret)
		}
	}
	show, code := operateRaw[tokens.SessionReply](t, s, "global", tokens.MethodSession, body)
	if code != "" || show.State != sessions.StateActive || show.Server != "a" || show.Subject != "ada" || show.Generation != 1 {
		t.Errorf("%s %+v", code, show)
	}
	none, code := operateRaw[tokens.SessionReply](t, s, "global", tokens.MethodSession, `{"session":"nobody"}`)
	if code != "" || none.State != "" {
		t.Errorf("of no session: %s %+v", code, none)
	}
}

func TestOperatorsRevokeByID(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.running()
	revoked := heard[*events.Revoked](t, f.conn, "berth.v1.revoked.*")
	told := heard[*events.Session](t, f.conn, "berth.v1.session.*.revoked")
	l := login(t, s)
	f.putRecord("other")

	q := tokens.RevokeRequest{Sessions: []string{l.SessionID, "nobody", "other", l.SessionID}, By: "eve@host"}
	reply, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, q)
	want := tokens.RevokeReply{Region: dublin, Ended: 2, Unknown: []string{"nobody"}}
	if diff := cmp.Diff(want, reply); diff != "" || code != "" {
		t.Errorf("%s (-want +got):\n%s", code, diff)
	}
	if rec := f.record(l.SessionID); rec.State != sessions.StateRevoked {
		t.Errorf("the record says %s", rec.State)
	}
	refused(t, s, "/v1/refresh", api.RefreshRequest{RefreshToken: l.RefreshToken}, api.CodeSessionRevoked)
	jetstreamtest.Eventually(t, 5*time.Second, "both are told of, in one event", func() bool {
		list := revoked()
		return len(list) == 1 && len(list[0].Sessions) == 2 && len(told()) == 2
	})
	for _, e := range told() {
		if e.By != "eve@host" || e.Reason != "operator" {
			t.Errorf("event %+v", e)
		}
	}
	// Again: nothing changes, and it is told again, in case nobody heard.
	reply, code = operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, q)
	want = tokens.RevokeReply{Region: dublin, Already: 2, Unknown: []string{"nobody"}}
	if diff := cmp.Diff(want, reply); diff != "" || code != "" {
		t.Errorf("again: %s (-want +got):\n%s", code, diff)
	}
	if list := revoked(); len(list) < 2 {
		jetstreamtest.Eventually(t, 5*time.Second, "it is told again", func() bool { return len(revoked()) == 2 })
	}
}

func TestOperatorsRevokeByFilter(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.running()
	revoked := heard[*events.Revoked](t, f.conn, "berth.v1.revoked.*")
	for i := range 30 {
		f.putRecord(fmt.Sprintf("s%02d", i), func(r *sessions.Record) { r.Org = []string{"acme", "bolt", "acme"}[i%3] })
	}
	q := tokens.RevokeRequest{Filter: &tokens.SessionFilter{Org: "acme"}, Limit: 7}
	ended, pages := 0, 0
	for {
		reply, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, q)
		if code != "" || reply.Already != 0 || reply.Ended > 7 || pages > 9 {
			t.Fatalf("page %d: %s %+v", pages, code, reply)
		}
		ended += reply.Ended
		pages++
		if q.Cursor = reply.Cursor; q.Cursor == "" {
			break
		}
	}
	if ended != 20 {
		t.Errorf("ended %d, want 20", ended)
	}
	jetstreamtest.Eventually(t, 5*time.Second, "all are told of, a page an event", func() bool {
		ids := map[string]bool{}
		for _, e := range revoked() {
			for _, id := range e.Sessions {
				ids[id] = true
			}
		}
		return len(ids) == 20 && len(revoked()) == 3
	})
	left, _ := operate[tokens.SessionsReply](t, s, tokens.MethodSessions, tokens.SessionsRequest{SessionFilter: tokens.SessionFilter{State: sessions.StateActive}})
	if left.Matched != 10 {
		t.Errorf("%d go on, want 10", left.Matched)
	}
	// Whoever begins again tells of those that ended a moment ago.
	again, code := operate[tokens.RevokeReply](t, s, tokens.MethodRevokeSessions, tokens.RevokeRequest{Filter: q.Filter})
	if code != "" || again.Already != 20 || again.Ended != 0 {
		t.Errorf("again: %s %+v", code, again)
	}
}

func TestOperatorsAreRefused(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.service()
	f.putRecord("s1")
	f.putRecord("s2")
	long := strings.Repeat("x", 300)
	many := `"` + strings.Repeat(`x","`, 500) + `x"`
	for _, c := range []struct{ method, body string }{
		{tokens.MethodRevokeSessions, `{}`},
		{tokens.MethodRevokeSessions, `{"filter":{}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"state":"active"}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"org":"acme","state":"active"}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"organisation":"acme","region":"eu-west-1"}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"org":"*"}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"server":">"}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"region":"eu.west"}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"subject":"` + long + `"}}`},
		{tokens.MethodRevokeSessions, `{"filter":{"org":"acme"},"sessions":["s1"]}`},
		{tokens.MethodRevokeSessions, `{"filter":{"org":"acme"},"limit":501}`},
		{tokens.MethodRevokeSessions, `{"filter":{"org":"acme"},"limit":-1}`},
		{tokens.MethodRevokeSessions, `{"filter":{"org":"acme"},"cursor":"1.2"}`},
		{tokens.MethodRevokeSessions, `{"sessions":["*"]}`},
		{tokens.MethodRevokeSessions, `{"sessions":[">"]}`},
		{tokens.MethodRevokeSessions, `{"sessions":["s1","a.b"]}`},
		{tokens.MethodRevokeSessions, `{"sessions":[""]}`},
		{tokens.MethodRevokeSessions, `{"sessions":[` + many + `]}`},
		{tokens.MethodRevokeSessions, `{"sessions":["s1"],"by":"` + long + `"}`},
		{tokens.MethodRevokeSessions, `[`},
		{tokens.MethodSession, `{"session":"global.s1"}`},
		{tokens.MethodSession, `{"session":"*"}`},
		{tokens.MethodSession, `{}`},
		{tokens.MethodSessions, `{"limit":1001}`},
		{tokens.MethodSessions, `{"cursor":"-1"}`},
		{tokens.MethodSessions, `{"cursor":"1.0.0"}`},
		{tokens.MethodSessions, `{"state":"ACTIVE"}`},
		{"refresh", `{}`},
		{"*", `{}`},
	} {
		if _, code := operateRaw[map[string]any](t, s, "global", c.method, c.body); code != api.CodeInvalidRequest {
			t.Errorf("%s %.80s: %q, want invalid_request", c.method, c.body, code)
		}
	}
	if _, code := operateRaw[map[string]any](t, s, "*", tokens.MethodSessions, `{}`); code != api.CodeInvalidRequest {
		t.Errorf("jurisdiction *: %q", code)
	}
	giant := `{"subject":"` + strings.Repeat("x", api.MaxBody) + `"}`
	if _, code := operateRaw[map[string]any](t, s, "global", tokens.MethodSessions, giant); code != api.CodeTooLarge {
		t.Errorf("a giant filter: %q", code)
	}
	for _, id := range []string{"s1", "s2"} {
		if rec := f.record(id); rec.State != sessions.StateActive {
			t.Errorf("%s is %s", id, rec.State)
		}
	}
}

// TestOperatorMethodsHaveNoRoute tries the methods by every way that a client or a regional
// server has.
func TestOperatorMethodsHaveNoRoute(t *testing.T) {
	f := newFleet(t, jetstreamtest.Provisioned(t, jetstreamtest.Shared(t)), server("a", dublin, "http://a"))
	s := f.service()
	f.putRecord("s1")
	for _, method := range tokens.OperatorMethods() {
		for _, path := range []string{"/v1/", "/", "/oauth/", "/rpc/"} {
			if status, body, _ := post(t, s, path+method, `{"sessions":["s1"]}`); status < 400 {
				t.Errorf("POST %s%s: %d %s", path, method, status, body)
			}
		}
		if slices.Contains(tokens.Methods(), method) {
			t.Errorf("%s is a method of regional servers", method)
		}
		for _, r := range api.Routes() {
			if r.RPC == method || strings.HasSuffix(r.Path, "/"+method) {
				t.Errorf("%s has the route %+v", method, r)
			}
		}
		header, body := s.Serve(t.Context(), method, nil, []byte(`{"sessions":["s1"]}`))
		if status := http.Header(header).Get(api.HeaderStatus); status != "400" {
			t.Errorf("Serve %s: %s %s", method, status, body)
		}
	}
	if rec := f.record("s1"); rec.State != sessions.StateActive {
		t.Errorf("s1 is %s", rec.State)
	}
}

// running is a service that runs until the test ends.
func (f *fleet) running(change ...func(*tokens.Config)) *tokens.Service {
	f.t.Helper()
	s := f.service(change...)
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
	return s
}
