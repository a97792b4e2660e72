package registry

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/events"
)

// BadInput is a message that could not be used, or that says something doubtful.
type BadInput struct {
	// Subject is the message's, Reason one of the faults of package events or of those below,
	// Detail what is wrong.
	Subject, Reason, Detail string
}

func (BadInput) event() {}

// Complained counts a message of which operators are told, or would be if they were not told of
// another like it a moment ago.
type Complained struct{ Reason string }

func (Complained) effect() {}

// What operators are told of beside the faults of package events.
const (
	// ComplainClock: the sender's clock is off. Its heartbeats count, for no verdict is based on
	// its times.
	ComplainClock = "clock"
	// ComplainSequence: the sender counts backwards.
	ComplainSequence = "sequence_back"
	// ComplainTooMany: there is no room for another server, or member.
	ComplainTooMany = "too_many"
)

// Bounds of complaints.
const (
	// complainEvery is the least time between two events about the same server and reason.
	complainEvery = time.Minute
	// complainKeep is how long one that has ended is remembered.
	complainKeep = 10 * time.Minute
	// complainers bounds the servers that are told of one by one for the same reason; the
	// others are told of together.
	complainers = 100
	// maxSkew is how far a sender's clock may be off before it is worth a word.
	maxSkew = 30 * time.Second
	// backSteps is how far a heartbeat may be behind the last: two may overtake one another
	// where a sender changes its NATS node.
	backSteps = 2
	maxDetail = 300
)

// complaintKey is who is complained of, why, and in which state of events.RegionState.
type complaintKey struct{ state, reason, who string }

func (k complaintKey) compare(o complaintKey) int {
	return cmp.Or(cmp.Compare(k.state, o.state), cmp.Compare(k.reason, o.reason), cmp.Compare(k.who, o.who))
}

// complaint is what was told, and not told yet, of one key.
type complaint struct {
	told, last time.Time
	// untold counts what came since told, detail is of the last.
	untold int
	detail string
}

// complaints bound what operators are told of bad input: the first at once, then each minute
// how many more.
type complaints struct {
	open map[complaintKey]*complaint
	// named counts the keys by reason, swept is when those that ended were last looked for.
	named map[string]int
	swept time.Time
}

// bad notes a message that could not be used. Of those that are not servers' own, as a view
// update, there is nobody here to tell.
func (t *Table) bad(b BadInput, now time.Time) []Effect {
	var effects []Effect
	if b.Reason != ComplainClock {
		effects = append(effects, Skipped{b.Reason})
	}
	rest, ours := strings.CutPrefix(b.Subject, events.Prefix)
	parts := strings.SplitN(rest, ".", 3)
	var state string
	switch events.Kind(parts[0]) {
	case events.KindHeartbeat:
		state = events.BadHeartbeats
	case events.KindLoad:
		state = events.BadLoadReports
	default:
		ours = false
	}
	if !ours {
		return effects
	}
	return append(effects, t.complain(complaintKey{state, b.Reason, parts[len(parts)-1]}, b.Detail, now)...)
}

// complain tells operators of a key, unless they were told a moment ago.
func (t *Table) complain(key complaintKey, detail string, now time.Time) []Effect {
	effects := []Effect{Complained{key.reason}}
	key.who, detail = brief(key.who, events.MaxToken), brief(detail, maxDetail)
	if t.complaints.open == nil {
		t.complaints.open, t.complaints.named = map[complaintKey]*complaint{}, map[string]int{}
	}
	c := t.complaints.open[key]
	if c == nil && t.complaints.named[key.reason] >= complainers {
		detail = brief(key.who+": "+detail, maxDetail)
		key.who = ""
		c = t.complaints.open[key]
	}
	if c == nil {
		c = &complaint{}
		t.complaints.open[key] = c
		t.complaints.named[key.reason]++
	}
	c.last, c.detail = now, detail
	if !c.told.IsZero() && now.Sub(c.told) < complainEvery {
		c.untold++
		return effects
	}
	return append(effects, t.complained(key, c, now))
}

// complained is the event about what is known of a key.
func (t *Table) complained(key complaintKey, c *complaint, now time.Time) Effect {
	who := "server " + key.who
	if key.who == "" {
		who = "several servers"
	}
	text := fmt.Sprintf("%s: %s; %s", who, c.detail, advice(key.reason))
	switch {
	case c.untold == 0:
	case c.told.IsZero(): // another registry led when the first came
		text += fmt.Sprintf(" (%d before)", c.untold)
	default:
		text += fmt.Sprintf(" (%d more since %s)", c.untold, c.told.UTC().Format(time.TimeOnly))
	}
	c.told, c.untold = now, 0
	return RegionChanged{&events.RegionState{
		Version: events.Version, Region: t.region, State: key.state, Reason: text, Seen: t.region, At: now.UTC(),
	}}
}

// sweep tells of what has gathered in a minute, and forgets what has ended.
func (t *Table) sweep(now time.Time) (effects []Effect) {
	if len(t.complaints.open) == 0 || now.Sub(t.complaints.swept) < time.Second {
		return nil
	}
	t.complaints.swept = now
	var due []complaintKey
	for key, c := range t.complaints.open {
		switch {
		case c.untold > 0 && now.Sub(c.told) >= complainEvery:
			due = append(due, key)
		case now.Sub(c.last) >= complainKeep:
			delete(t.complaints.open, key)
			t.complaints.named[key.reason]--
		}
	}
	slices.SortFunc(due, complaintKey.compare)
	for _, key := range due {
		effects = append(effects, t.complained(key, t.complaints.open[key], now))
	}
	return effects
}

// advice says what an operator can do.
func advice(reason string) string {
	switch reason {
	case events.FaultForged:
		return "see which credentials may publish there, and who uses them"
	case events.FaultTooLarge:
		return "let it say less: most of it are positions of replication"
	case events.FaultLoad, events.FaultLocation, events.FaultURL:
		return "mend its configuration; until then the server counts as silent"
	case events.FaultUnknown:
		return "upgrade the registries before the servers"
	case ComplainClock, SkipEarly, SkipLate:
		return "set its clock by NTP"
	case ComplainSequence:
		return "two processes share a boot id, or somebody repeats heartbeats: each start needs an id of its own"
	case ComplainTooMany:
		return "find out who makes up ids, or divide the region"
	default:
		return "let its sender keep to events/asyncapi.yaml"
	}
}

// skewed returns what is wrong with the clock that dated a heartbeat, false if nothing is.
func skewed(h *events.Heartbeat, arrived time.Time) (BadInput, bool) {
	off := h.At.Sub(arrived)
	if off.Abs() <= maxSkew {
		return BadInput{}, false
	}
	direction := "ahead of"
	if off < 0 {
		direction = "behind"
	}
	return BadInput{
		Subject: h.Subject().String(), Reason: ComplainClock,
		Detail: fmt.Sprintf("its clock is %s %s this registry's", off.Abs().Round(time.Second), direction),
	}, true
}

// checkClock tells of a heartbeat's sender whose clock is off, and not because the heartbeat
// waited in a stream.
func (r *Registry) checkClock(ctx context.Context, g *errgroup.Group, seen HeartbeatSeen, at time.Time) {
	if seen.Stored {
		return
	}
	if bad, off := skewed(seen.Heartbeat, at); off {
		r.reduce(ctx, g, bad, at)
	}
}

// refuse skips a heartbeat for which there is no room.
func (t *Table) refuse(h *events.Heartbeat, who, what string, now time.Time) []Effect {
	key := complaintKey{events.BadHeartbeats, ComplainTooMany, who}
	return append([]Effect{Skipped{SkipTooMany}}, t.complain(key, what+", as of "+h.Server, now)...)
}

// backwards skips a heartbeat that its boot has sent, or should have, long before the last.
func (t *Table) backwards(h *events.Heartbeat, l *life, stored bool, now time.Time) []Effect {
	effects := []Effect{Skipped{SkipOlder}}
	if stored || h.Seq+backSteps >= l.live {
		return effects
	}
	detail := fmt.Sprintf("heartbeat %d came after %d of boot %s", h.Seq, l.live, l.boot)
	return append(effects, t.complain(complaintKey{events.BadHeartbeats, ComplainSequence, h.Server}, detail, now)...)
}

// faultText returns what an error of events.Decode says, without what its reader knows already.
func faultText(err error) string {
	text := err.Error()
	for _, class := range []error{events.ErrMalformed, events.ErrUnknown} {
		if _, what, ok := strings.Cut(text, class.Error()+": "); ok {
			return what
		}
	}
	return text
}

// brief cuts what somebody else wrote.
func brief(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
