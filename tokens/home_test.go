package tokens_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestSessionReturnsHome: a session that a full region has sent away, and then a dead one, returns to the first once that
// has room, although nobody knows where its client is; and an organization's home goes before it.
func TestSessionReturnsHome(t *testing.T) {
	t.Parallel()
	acme := residency.Default("acme")
	orgs := &fixedOrgs{orgs: map[string]residency.Org{"acme": acme}}
	r := provisionedRegions(t, dublin, frankfurt, virginia)
	r.configure = func(_ string, c *tokens.Config) { c.Orgs, c.Policies = orgs, restless{} }
	all := worldly(t)
	full := slices.Clone(all)
	full[0].Load.Utilisation = 5
	for _, name := range []string{dublin, frankfurt, virginia} {
		r.fleets[name].set(slices.Clone(all)...)
		r.start(t, name)
	}
	r.reach(t)
	session, p, _ := starting(t, r.services[dublin], "acme")
	if session.Server.Region != dublin {
		t.Fatalf("%+v, %+v", session, p)
	}
	step := func(see []events.Server, at, region, reason, home string) {
		t.Helper()
		for _, f := range r.fleets {
			f.set(slices.Clone(see)...)
		}
		next := granted(t, r.services[at], "/v1/refresh", api.RefreshRequest{RefreshToken: session.RefreshToken})
		if next.Server.Region != region || next.Reason != reason {
			t.Fatalf("%s %s to %+v; want %s to %s", next.Decision, next.Reason, next.Server, reason, region)
		}
		if notice := next.Notice; next.ServerChanged != (notice != nil) || notice != nil && notice.Code != api.NoticeCodeServerChanged {
			t.Errorf("%s: notice %+v", reason, notice)
		}
		r.await(t, region, session.SessionID, sessions.StateActive)
		if got := r.fleets[region].record(session.SessionID).Home; got != home {
			t.Errorf("after %s home is %q, want %q", reason, got, home)
		}
		session = next
	}
	step(full, dublin, frankfurt, "region_full", dublin)
	step(full, frankfurt, frankfurt, "already_best", dublin)
	step(without(full, frankfurt), frankfurt, virginia, "region_down", dublin)
	step(all, virginia, dublin, "home_restored", "")
	step(all, dublin, dublin, "already_best", "")

	// The organization's home goes first, where it has one.
	step(full, dublin, frankfurt, "region_full", dublin)
	acme.Home = virginia
	orgs.set(acme)
	next := granted(t, r.services[frankfurt], "/v1/refresh", api.RefreshRequest{RefreshToken: session.RefreshToken})
	if next.Server.Region != virginia || next.Reason != "home_restored" || next.Notice == nil || next.Notice.Code != api.NoticeCodeHomeRegionRestored {
		t.Errorf("%s %s to %+v, notice %+v", next.Decision, next.Reason, next.Server, next.Notice)
	}
	r.await(t, virginia, session.SessionID, sessions.StateActive)
	if got := r.fleets[virginia].record(session.SessionID).Home; got != "" {
		t.Errorf("in its organization's home it counts %q as its own", got)
	}

	for region, want := range map[string][]string{
		dublin: {"", "", "", ""}, frankfurt: {dublin, dublin, virginia}, virginia: {dublin},
	} {
		replayed(t, r.fleets[region].conn, len(want))
		var got []string
		for _, d := range stored[*events.Decision](t, r.fleets[region].conn, jetstream.StreamEvents, events.KindDecision) {
			got = append(got, d.Facts.Home)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the homes by which %s decided: -want +got\n%s", region, diff)
		}
	}
}
