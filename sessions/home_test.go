package sessions_test

import (
	"testing"
	"time"

	"github.com/berthhq/berth/sessions"
)

// TestHomeIsCarried: the region that a session was sent away from stands in the record of each region that has to do with
// the move, and in none of a handover that was given up.
func TestHomeIsCarried(t *testing.T) {
	answer := func(server, region, reason string) sessions.Answer {
		return sessions.Answer{Server: server, Region: region, Reason: reason}
	}
	base := sessions.Start(sessions.Record{Session: "s", Jurisdiction: "global"}, region, answer("a", region, "login"), "o1", noon)
	now := noon.Add(time.Minute)
	j := sessions.Judgement{Verdict: sessions.Rotate, Token: base.Current(), Grace: base.Grace}
	if got := base.Next(j, region, answer("b", region, "server_down"), "o2", now).Home; got != "" {
		t.Errorf("moved inside its region: home %q", got)
	}
	away := base.Next(j, "us", answer("x", "us", "region_full"), "o2", now)
	moving := base.Begin(away, now)
	for name, got := range map[string]sessions.Record{"offered": moving.Offered(), "committed": moving.Commit(), "activated": moving.Offered().Activate()} {
		if got.Home != region {
			t.Errorf("%s: home %q, want %q", name, got.Home, region)
		}
	}
	if back := moving.Undo(answer("a", region, "target_refused"), "o3", now); back.Home != "" {
		t.Errorf("given up: home %q", back.Home)
	}

	j = sessions.Judgement{Verdict: sessions.Rotate, Token: away.Current(), Grace: away.Grace, TakenOver: true}
	third := sessions.TakeOver(away, nil, nil, j, "ap", answer("y", "ap", "region_down"), "o4", now)
	if third.Home != region {
		t.Errorf("taken over from where it was sent to: home %q, want %q", third.Home, region)
	}
	yielded := sessions.Fold(&away, "us", []sessions.Copy{{Region: "ap", Record: third}}, func() string { return "o5" })
	if yielded.Record == nil || yielded.Record.State != sessions.StateMoved || yielded.Record.Home != region {
		t.Errorf("the owner before knows %+v", yielded.Record)
	}
	if first := sessions.TakeOver(base, nil, nil, j, "us", answer("x", "us", "region_down"), "o4", now); first.Home != region {
		t.Errorf("taken over: home %q, want %q", first.Home, region)
	}
	if unknown := sessions.TakeOver(sessions.Record{}, nil, nil, j, "us", answer("x", "us", "region_down"), "o4", now); unknown.Home != "" {
		t.Errorf("taken over by a token alone: home %q", unknown.Home)
	}
	back := third.Next(sessions.Judgement{Verdict: sessions.Rotate, Token: third.Current()}, region, answer("a", region, "home_restored"), "o6", now)
	if back.Home != "" {
		t.Errorf("back: home %q", back.Home)
	}
}
