package events_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/events"
)

var kinds = []events.Kind{
	events.KindHeartbeat, events.KindLoad, events.KindServer, events.KindRegion, events.KindView, events.KindDecision,
	events.KindSession, events.KindLock, events.KindRevoked, events.KindReport, events.KindDemand, events.KindSight, events.KindRPC,
}

// subjects draws a subject with just the fields of its kind.
func subjects() *rapid.Generator[events.Subject] {
	return rapid.Custom(func(t *rapid.T) events.Subject {
		token := func(name string) string { return rapid.StringMatching(`[a-z0-9_-]{1,64}`).Draw(t, name) }
		s := events.Subject{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Region: token("region")}
		switch s.Kind {
		case events.KindHeartbeat, events.KindLoad, events.KindLock:
			s.Server = token("server")
		case events.KindServer:
			s.Server, s.State = token("server"), token("state")
		case events.KindRegion, events.KindSession:
			s.State = token("state")
		case events.KindDecision:
			s.Verdict, s.Reason = token("verdict"), token("reason")
		case events.KindRPC:
			s.Service, s.Jurisdiction, s.Method = token("service"), token("jurisdiction"), token("method")
		case events.KindSight:
			s.Instance = token("instance")
		case events.KindView, events.KindRevoked, events.KindReport, events.KindDemand:
		}
		return s
	})
}

func TestSubjectRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := subjects().Draw(t, "subject")
		got, err := events.ParseSubject(s.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", s, diff)
		}
		if s.Filter() != s.String() {
			t.Fatalf("the filter of %s is %s", s, s.Filter())
		}
	})
}

// TestParsedIsPublished: whatever parses is published on the very same subject.
func TestParsedIsPublished(t *testing.T) {
	tokens := rapid.SampledFrom([]string{
		"heartbeat", "view", "lock", "rpc", "region", "released", "a", "eu-west-1", "", "*", ">", "A", "é", "x_1", strings.Repeat("a", 65),
	})
	rapid.Check(t, func(t *rapid.T) {
		subject := events.Prefix + strings.Join(rapid.SliceOfN(tokens, 0, 6).Draw(t, "tokens"), ".")
		s, err := events.ParseSubject(subject)
		switch {
		case err == nil && s.String() != subject:
			t.Fatalf("%s parses and is published as %s", subject, s)
		case err != nil && !errors.Is(err, events.ErrMalformed) && !errors.Is(err, events.ErrUnknown):
			t.Fatalf("%s: %v is neither fault", subject, err)
		}
	})
}

func TestParseSubject(t *testing.T) {
	tests := []struct {
		subject string
		want    error
	}{
		{"berth.v1.heartbeat.eu-west-1.eu-west-1-a", nil},
		{"berth.v1.server.eu-west-1.eu-west-1-a.down", nil},
		{"berth.v1.lock.eu-west-1.eu-west-1-a.released", nil},
		{"berth.v1.decision.eu-west-1.stay.already_best", nil},
		{"berth.v1.rpc.tokens.global.eu-west-1.refresh", nil},
		{"", events.ErrUnknown},
		{"berth", events.ErrUnknown},
		{"berth.v1.", events.ErrUnknown},
		{"berth.v10.view.eu", events.ErrUnknown},
		{"berth.v1.views.eu", events.ErrUnknown},
		{"Berth.v1.view.eu", events.ErrUnknown},
		{"berth.v1.lock.eu.a.taken", events.ErrUnknown},
		{"berth.v1.view", events.ErrMalformed},
		{"berth.v1.view.", events.ErrMalformed},
		{"berth.v1.view.eu.", events.ErrMalformed},
		{"berth.v1.view.eu.1", events.ErrMalformed},
		{"berth.v1.view.*", events.ErrMalformed},
		{"berth.v1.view.>", events.ErrMalformed},
		{"berth.v1.view.EU", events.ErrMalformed},
		{"berth.v1.view.e u", events.ErrMalformed},
		{"berth.v1.view.eu\n", events.ErrMalformed},
		{"berth.v1.view.zürich", events.ErrMalformed},
		{"berth.v1.view." + strings.Repeat("a", events.MaxToken), nil},
		{"berth.v1.view." + strings.Repeat("a", events.MaxToken+1), events.ErrMalformed},
	}
	for _, test := range tests {
		if _, err := events.ParseSubject(test.subject); !errors.Is(err, test.want) {
			t.Errorf("%q: %v, want %v", test.subject, err, test.want)
		}
	}
}

func TestFilter(t *testing.T) {
	tests := []struct {
		subject events.Subject
		want    string
	}{
		{events.Subject{Kind: events.KindHeartbeat}, "berth.v1.heartbeat.*.*"},
		{events.Subject{Kind: events.KindHeartbeat, Region: "eu"}, "berth.v1.heartbeat.eu.*"},
		{events.Subject{Kind: events.KindServer, Server: "a"}, "berth.v1.server.*.a.*"},
		{events.Subject{Kind: events.KindLock}, "berth.v1.lock.*.*.released"},
		{events.Subject{Kind: events.KindView}, "berth.v1.view.*"},
		{events.Subject{Kind: events.KindDecision, Verdict: "move"}, "berth.v1.decision.*.move.*"},
		{events.Subject{Kind: events.KindRPC, Service: "tokens", Jurisdiction: "global", Region: "eu"}, "berth.v1.rpc.tokens.global.eu.*"},
	}
	for _, test := range tests {
		if got := test.subject.Filter(); got != test.want {
			t.Errorf("filter of %+v is %s, want %s", test.subject, got, test.want)
		}
	}
}

// TestLeafDenials asks subject by subject what leaves a region that is a member of the
// jurisdictions global and eu, and not of us.
func TestLeafDenials(t *testing.T) {
	deny := events.LeafDenials([]string{"us"})
	tests := []struct {
		subject string
		leaves  bool
	}{
		{"berth.v1.view.eu-west-1", true},
		{"berth.v1.revoked.eu-west-1", true},
		{"berth.v1.lock.eu-west-1.a.released", true},
		{"berth.v1.rpc.tokens.eu.eu-west-1.refresh", true},
		{"berth.v1.rpc.tokens.global.eu-west-1.refresh", true},
		{"berth.v1.rpc.tokens.global.eu-west-1.keys_known", true},
		{"berth.v1.rpc.tokens.global.eu-west-1.keys_rotate", false},
		{"berth.v1.rpc.tokens.eu.eu-west-1.keys_retire", false},
		{"berth.copies.eu.x", true},
		{"_INBOX_eu.abc.1", true},
		{"_INBOX_us-gov.abc.1", true},
		{"berth.v1.heartbeat.eu-west-1.a", false},
		{"berth.v1.load.eu-west-1.a", false},
		{"berth.v1.server.eu-west-1.a.down", false},
		{"berth.v1.region.eu-west-1.down", false},
		{"berth.v1.decision.eu-west-1.stay.within_band", false},
		{"berth.v1.session.eu-west-1.moved", false},
		{"berth.v1.report.eu-west-1", false},
		{"berth.v1.demand.eu-west-1", false},
		{"$SYS.ACCOUNT.$G.DISCONNECT", false},
		{"$JS.EVENT.ADVISORY.API", false},
		{"_INBOX_local.abc.1", false},
		{"$SYS.REQ.USER.INFO", false},
		{"berth.v1.rpc.tokens.us.us-east-1.refresh", false},
		{"berth.v1.rpc.sessions.us.us-east-1.adopt", false},
		{"berth.copies.us.x.y", false},
		{"_INBOX_us.abc.1", false},
	}
	for _, test := range tests {
		denied := false
		for _, d := range deny {
			denied = denied || matches(d, test.subject)
		}
		if denied == test.leaves {
			t.Errorf("%s: denied %t", test.subject, denied)
		}
	}
	for subject, out := range map[string]bool{
		"berth.v1.rpc.tokens.eu.eu-west-1.refresh": false, "berth.v1.rpc.tokens.global.eu-west-1.refresh.01abc": false,
		"berth.v1.lock.eu-west-1.a.released": false, "berth.v1.rpc.tokens.eu.us-east-1.refresh": true, "berth.v1.lock.us-east-1.a.released": true,
	} {
		if denied := slices.ContainsFunc(events.LeafExportDenials("eu-west-1"), func(d string) bool { return matches(d, subject) }); denied == out {
			t.Errorf("%s: denied on the way out: %t", subject, denied)
		}
	}
	if got, want := len(events.LeafDenials(nil)), len(deny)-3; got != want {
		t.Errorf("%d denials for a member of all jurisdictions, want %d", got, want)
	}
}

// matches reports whether a NATS filter covers a subject.
func matches(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s), token != "*" && token != s[i]:
			return false
		}
	}
	return len(f) == len(s)
}

func TestValidToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z0-9_-]{0,70}`)).Draw(t, "token")
		want := s != "" && len(s) <= events.MaxToken && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" &&
			!strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_", r) })
		if got := events.ValidToken(s); got != want {
			t.Fatalf("ValidToken(%q) = %t", s, got)
		}
	})
}
