package sessions_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// TestUnrotate: access without the store is the owner's to give, for the token that it last made,
// the one before, and its own later ones; not beyond a minute past the last contact (V11).
func TestUnrotate(t *testing.T) {
	rec := sessions.Start(sessions.Record{Session: "a", Jurisdiction: "global", ExpiresAt: noon.Add(time.Hour)}, region, sessions.Answer{Server: "a"}, "op", noon)
	rec.Epoch.Number, rec.Gen, rec.Parent = 3, 7, at(3, 6)
	elsewhere := sessions.Stamp{Epoch: events.Epoch{Number: 3, Region: "us"}, Gen: 7}
	in := func(s sessions.State) sessions.Record { r := rec; r.State = s; return r }
	owned := func(by string) sessions.Record { r := rec; r.Epoch.Region = by; return r }
	for _, c := range []struct {
		name    string
		rec     sessions.Record
		token   sessions.Stamp
		contact time.Time
		want    bool
	}{
		{"the current token", rec, at(3, 7), noon, true},
		{"its parent", rec, at(3, 6), noon, true},
		{"a later one of this lock", rec, at(3, 9), noon, true},
		{"an older one", rec, at(3, 5), noon, false},
		{"one of a later lock, whose server is not known", rec, at(4, 8), noon, false},
		{"one of an earlier lock", rec, at(2, 8), noon, false},
		{"another region's", rec, elsewhere, noon, false},
		{"a minute after the contact", rec, at(3, 7), noon.Add(-time.Minute), true},
		{"later", rec, at(3, 7), noon.Add(-time.Minute - 1), false},
		{"no contact since the start", rec, at(3, 7), time.Time{}, false},
		{"being handed over", in(sessions.StateMoving), at(3, 7), noon, false},
		{"handed over", in(sessions.StateMoved), at(3, 7), noon, false},
		{"ended", in(sessions.StateRevoked), at(3, 7), noon, false},
		{"another region owns it", owned("us"), elsewhere, noon, false},
	} {
		if got := sessions.Unrotate(&c.rec, c.token, region, c.contact, noon); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
	if sessions.Unrotate(&rec, at(3, 7), region, rec.ExpiresAt, rec.ExpiresAt) {
		t.Error("a session that has ended by itself goes on")
	}
}

// outage is a session "a" whose store's leader comes and goes, with copies and rules of one's
// choice.
type outage struct {
	*cached
	away bool
}

func newOutage(t *testing.T, rules ...sessions.Rule) *outage {
	t.Helper()
	o := &outage{cached: newCached(t, newMemory(), 100)}
	o.store.now = func() time.Time { return o.now }
	o.store.fault = func(context.Context, *sessions.Record) fault {
		if o.away {
			return notWritten
		}
		return sound
	}
	o.owner.Take(rules...)
	o.create("a")
	return o
}

// redeem presents a token, as one that is remembered if it is.
func (o *outage) redeem(token sessions.Stamp, floor events.Epoch) (sessions.Verdict, error) {
	req := sessions.Request{Key: sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}, Token: token, Floor: floor}
	req.Held = o.cache.Take([]byte("a"), text(token))
	out, err := o.owner.Refresh(o.t.Context(), req, o)
	return out.Judgement.Verdict, err
}

// goesOn and refuses fail the test unless a client that presents the token goes on unrotated, or
// is asked to come again.
func (o *outage) goesOn(what string, token sessions.Stamp) {
	o.t.Helper()
	if v, err := o.redeem(token, events.Epoch{}); err != nil || v != sessions.Unrotated {
		o.t.Errorf("%s: %s, %v", what, v, err)
	}
}

func (o *outage) refuses(what string, token sessions.Stamp) {
	o.t.Helper()
	if v, err := o.redeem(token, events.Epoch{}); !errors.Is(err, sessions.ErrUnavailable) {
		o.t.Errorf("%s: %s, %v", what, v, err)
	}
}

// TestOutage: what was known before the leader was lost is good for a minute, whatever the cache
// was certain of, and nothing is written or held against anybody by it.
func TestOutage(t *testing.T) {
	o := newOutage(t)
	o.want("a", at(1, 1), true, 0, sessions.Rotate)
	o.away = true
	for range 3 {
		o.goesOn("the current token", at(1, 2))
		o.goesOn("its parent", at(1, 1))
		o.now = o.now.Add(20 * time.Second)
	}
	if v, err := o.redeem(at(1, 2), events.Epoch{Number: 2, Region: region}); !errors.Is(err, sessions.ErrUnavailable) {
		t.Errorf("below the floor of the server that asks: %s, %v", v, err)
	}
	o.now = o.now.Add(time.Second)
	o.refuses("later", at(1, 2))
	o.away = false
	if v, err := o.redeem(at(1, 2), events.Epoch{}); err != nil || v != sessions.Rotate {
		t.Errorf("after the outage: %s, %v", v, err)
	}
	if rec := o.store.peek(sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}); rec.Gen != 3 {
		t.Errorf("generation %d", rec.Gen)
	}
}

// TestOutageWhileSuspended: that copies are not heard of makes the cache certain of nothing, but
// does not empty it; that they are again, after a gap, does.
func TestOutageWhileSuspended(t *testing.T) {
	o := newOutage(t)
	o.cache.Suspend()
	o.away = true
	o.goesOn("known before", at(1, 1))
	o.away = false
	o.want("a", at(1, 1), false, 1, sessions.Rotate)
	o.away = true
	o.goesOn("written meanwhile", at(1, 2))
	o.cache.Resume()
	o.refuses("whatever happened in the gap", at(1, 2))
}

// TestOutageForgets: a session of which something was heard is not given access by memory, even
// while a refresh of it is under way.
func TestOutageForgets(t *testing.T) {
	o := newOutage(t)
	forget := func() { o.cache.Forget(sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"}) }
	o.during = func() { forget(); o.away = true }
	o.refuses("forgotten during its refresh", at(1, 1))
	o.refuses("forgotten", at(1, 1))
}

// TestV11 takes the rule away part by part: access is then given for longer than it may be, or
// by a region that does not own the session.
func TestV11(t *testing.T) {
	always := func(*sessions.Record, sessions.Stamp, string, time.Time, time.Time) bool { return true }
	schedules := []struct {
		name  string
		mutes func(*sessions.Record, sessions.Stamp, string, time.Time, time.Time) bool
		run   func(o *outage) sessions.Verdict
	}{
		{"counted from the first failure", func(rec *sessions.Record, t sessions.Stamp, r string, _, now time.Time) bool {
			return sessions.Unrotate(rec, t, r, now, now)
		}, func(o *outage) sessions.Verdict {
			o.now = o.now.Add(sessions.Leaderless + time.Second) // and nobody has asked meanwhile
			o.away = true
			v, _ := o.redeem(at(1, 1), events.Epoch{})
			return v
		}},
		{"a service that has just begun has had contact", always, func(o *outage) sessions.Verdict {
			o.away, o.store.contact = true, time.Time{}
			v, _ := o.redeem(at(1, 1), events.Epoch{})
			return v
		}},
		{"a region that has learnt of a higher epoch still owns the session", always, func(o *outage) sessions.Verdict {
			taken := *o.store.peek(sessions.Key{Jurisdiction: key.Jurisdiction, Session: "a"})
			taken.Epoch = events.Epoch{Number: 2, Region: "us"}
			o.copies = func() []sessions.Copy {
				o.away = true // what the copy says cannot be written
				return []sessions.Copy{{Region: "us", Record: taken}}
			}
			o.cache.Suspend() // or the copy would have been heard of
			v, _ := o.redeem(at(1, 1), events.Epoch{})
			return v
		}},
		{"an old token is as good as the current", always, func(o *outage) sessions.Verdict {
			for gen := range uint64(3) {
				o.want("a", at(1, gen+1), true, 0, sessions.Rotate)
			}
			o.away = true
			v, _ := o.redeem(at(1, 1), events.Epoch{})
			return v
		}},
	}
	for _, s := range schedules {
		t.Run(s.name, func(t *testing.T) {
			if v := s.run(newOutage(t)); v == sessions.Unrotated {
				t.Error("with the rule, access is given")
			}
			if v := s.run(newOutage(t, sessions.Unrotating(s.mutes))); v != sessions.Unrotated {
				t.Errorf("without the rule: %q, want a broken one", v)
			} else {
				t.Log("without the rule, access is given that may not be")
			}
		})
	}
}
