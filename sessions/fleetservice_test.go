package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// accept begins a request at a region.
func (f *fleet) accept(e errand, floor events.Epoch) *process {
	if f.gone[e.to] {
		return nil
	}
	p := &process{request: e.request, floor: floor, late: f.over(e.to), title: fmt.Sprintf("%s, request %d with %s", e.to, e.id, e.token)}
	if e.from == thief {
		p.title += " of the thief"
		if !e.deadline.Before(f.now) {
			f.ledger.stolen = true
		}
	}
	p.done = func() { f.answered(e, p) }
	f.start(p, func(ctx context.Context) { p.outcome, p.err = f.serve(ctx, e.to, e.request, 0) })
	return p
}

// serve is a region's token service: it refreshes, passes on, or takes over.
func (f *fleet) serve(ctx context.Context, at string, r request, passed int) (sessions.Outcome, error) {
	p, s := processOf(ctx), f.regions[at]
	ask := sessions.Request{Key: key, Token: r.token, Critical: r.critical, Deadline: r.deadline, Floor: p.floor, Rebuilt: func() sessions.Record {
		rec := rebuilt(r.token)
		rec.StartedAt, rec.ExpiresAt = noon, noon.Add(30*24*time.Hour)
		return rec
	}}
	if f.without.noFloor {
		ask.Floor = events.Epoch{}
	}
	if f.without.noDeadline {
		ask.Deadline = time.Time{}
	}
	if ask.Held = s.owner.Known(key, r.token); ask.Held != nil {
		p.judged, p.seen = f.elapsed, f.copied
	}
	d := fleetDecider{f, p, s}
	out, err := s.owner.Refresh(ctx, ask, d)
	if err != nil || out.Judgement.Verdict != sessions.Elsewhere {
		return out, err
	}
	if passed >= hops {
		return sessions.Outcome{}, errHops
	}
	owner := out.Owner
	ways := []string{owner}
	for _, x := range regionNames { // V15: through a region that hears it
		if x != at && x != owner && !f.without.noWitness {
			ways = append(ways, x)
		}
	}
	for _, way := range ways {
		err = f.call(ctx, at, way, "refresh", func(ctx context.Context) (err error) {
			if way != owner {
				return f.call(ctx, way, owner, "refresh", func(ctx context.Context) (err error) {
					out, err = f.serve(ctx, owner, r, hops)
					return err
				})
			}
			out, err = f.serve(ctx, owner, r, passed+1)
			return err
		})
		if !errors.Is(err, errUnreachable) {
			return out, err
		}
	}
	if !f.silent(at, owner) {
		return sessions.Outcome{}, errUnreachable
	}
	age, witnessed, known := f.now.Sub(f.ledger.made(r.token)), f.witnessed(at, owner), s.knownOwner(r.token)
	out, err = s.owner.TakeOver(ctx, ask, owner, f.without.anyToken || age < youngFor && !f.without.noToken, d)
	if err == nil && out.Written {
		f.ledger.takeovers = append(f.ledger.takeovers, takeover{
			at: at, of: owner, known: known, witnessed: witnessed, blind: s.store.took(key) && len(s.copies) == 0, age: age,
		})
	}
	return out, err
}

// knownOwner returns the region of the highest epoch in a token, the region's own record if the session
// has moved, and the copies.
func (s *site) knownOwner(t sessions.Stamp) string {
	top := t.Epoch
	higher := func(rec *sessions.Record) {
		if rec.State != sessions.StatePrepared && rec.Epoch.Compare(top) > 0 {
			top = rec.Epoch
		}
	}
	if own := s.store.peek(key); own != nil {
		higher(own)
	}
	for _, c := range s.copies {
		higher(&c.rec)
	}
	return top.Region
}

// youngFor is the age of a token up to which it is taken over without a copy: twice the life of
// an access token (V16).
const youngFor = 4 * time.Minute

// over reports whether a region knows that the session was revoked.
func (f *fleet) over(region string) bool {
	s := f.regions[region]
	if rec := s.store.peek(key); rec != nil && rec.State == sessions.StateRevoked {
		return true
	}
	for _, c := range s.copies {
		if c.rec.State == sessions.StateRevoked {
			return true
		}
	}
	return false
}

// answered notes what a request came to and sends its reply.
func (f *fleet) answered(e errand, p *process) {
	f.say("%s: %s, %s, %v", p.title, p.outcome.Judgement.Verdict, p.outcome.Record.Current(), p.err)
	if p.err == nil {
		store := f.regions[p.outcome.Record.Epoch.Region].store
		f.ledger.answers = append(f.ledger.answers, fleetAnswer{
			honest: e.from != thief, request: e.request, floor: p.floor, outcome: p.outcome, judged: p.judged, left: f.elapsed, late: p.late,
			held: store.peek(key), now: f.now, contact: store.contact,
		})
	}
	f.replies = append(f.replies, reply{e.request, p.outcome, p.err})
}

// fleetDecider is the rest of a token service of a region, for one request.
type fleetDecider struct {
	f *fleet
	p *process
	s *site
}

var _ sessions.Decider = fleetDecider{}

// Dead implements sessions.Decider.
func (d fleetDecider) Dead(_ context.Context, rec sessions.Record) (bool, error) {
	if d.p.pause("probes") != sound {
		return false, errUnconfirmed
	}
	d.p.dead = d.f.down[rec.Server] || d.f.gone[rec.Answer.Region]
	return d.p.dead, nil
}

// Answer implements sessions.Decider.
func (d fleetDecider) Answer(_ context.Context, rec sessions.Record, j sessions.Judgement) (sessions.Answer, error) {
	a := sessions.Answer{Decision: "stay", Reason: "already_best", Server: rec.Server, Region: rec.Answer.Region, IssuedAt: d.f.now}
	to := func(server, reason string) sessions.Answer {
		a.Decision, a.Reason, a.Server = "move", reason, server
		a.Region, _, _ = strings.Cut(server, "-")
		return a
	}
	switch want := d.f.want; {
	case j.TakenOver, j.Lost && rec.Answer.Region != d.s.name:
		if server := d.f.server(d.s.name, ""); server != "" {
			return to(server, regionDown), nil
		}
		return a, errNoServer
	case d.p.dead || j.Lost || j.Verdict == sessions.Supersede && j.Fresh:
		for _, region := range append([]string{d.s.name}, regionNames...) {
			if server := d.f.server(region, rec.Server); server != "" && d.f.reach(d.s.name, region) {
				return to(server, downReason), nil
			}
		}
		return a, errNoServer
	case want != "" && want != rec.Server && !d.f.down[want] && rec.CriticalSince.IsZero():
		return to(want, "closer_region"), nil
	}
	return a, nil
}

// regionDown is why a session is taken over.
const regionDown = "region_down"

// Stay implements sessions.Stayer.
func (d fleetDecider) Stay(rec sessions.Record) sessions.Answer {
	a := rec.Answer
	a.Decision, a.Reason = "stay", "target_refused"
	return a
}

// Sign implements sessions.Stayer: the hash tells two tokens of one place apart.
func (d fleetDecider) Sign(rec *sessions.Record) error {
	rec.Hash = sessions.HashToken(rec.Current().String() + " " + rec.Op)
	return nil
}
