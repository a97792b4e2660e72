package tokens

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// strictRetry is what a client of a strict organization is told to wait for: a region gets its lease
// back, or a fallback may take over, in some tens of seconds.
const strictRetry = 5

// strictness keeps the region's lease, by which the sessions of strict organizations are answered and
// taken over.
type strictness struct {
	// now is the clock of the lease alone.
	now func() time.Time
	log *slog.Logger

	// mu guards the lease, and what was last told of it.
	mu    sync.Mutex
	lease *sessions.Lease
	told  sessions.LeaseFault
}

// newStrictness returns the lease of a region with these edges. A server may accept a token for the
// skew of clocks after its end.
func newStrictness(c *Config) *strictness {
	var edges []string
	if c.Edges != nil {
		edges = c.Edges()
	}
	return &strictness{now: time.Now, log: c.Log, lease: sessions.NewLease(c.Region, edges, c.AccessTTL+api.Skew)}
}

// hearLease notes a view update. Those of the own region come each second.
func (s *Service) hearLease(u events.ViewHead) {
	own := u.Region == s.cfg.Region
	complete := own && s.complete()
	x := s.strictness
	x.mu.Lock()
	x.lease.Hear(u, x.now())
	held := own && x.lease.Answers(x.now(), complete) == sessions.LeaseHeld
	x.mu.Unlock()
	if held {
		x.tell(context.Background(), sessions.LeaseHeld)
	}
}

// strict reports whether an organization's takeover is strict. While that is not known it is.
func (s *Service) strict(org string) bool {
	if org == "" || s.cfg.Orgs == nil {
		return false
	}
	o, err := s.cfg.Orgs.Org(org)
	return err != nil || o.Takeover == residency.TakeoverStrict
}

// complete reports whether no copy of another region's sessions is known to be missing. A region that is
// heard, but whose JetStream is away, may have taken sessions over before.
func (s *Service) complete() bool {
	if s.cfg.Complete != nil && s.cfg.Complete() != nil {
		return false
	}
	if s.cfg.CaughtUp == nil {
		return true
	}
	x := s.strictness
	x.mu.Lock()
	heard := x.lease.Heard(x.now())
	x.mu.Unlock()
	return !slices.ContainsFunc(heard, func(region string) bool { return !s.cfg.CaughtUp(region) })
}

// mayAnswer returns why this region may not answer for a session of its own now, nil if it may.
func (s *Service) mayAnswer(rec *sessions.Record) error {
	if !s.strict(rec.Org) {
		return nil
	}
	x := s.strictness
	complete := s.complete()
	x.mu.Lock()
	refusal := x.lease.MayAnswer(rec, x.now(), complete)
	x.mu.Unlock()
	if refusal == sessions.LeaseHeld {
		return nil
	}
	return strictRefusal(refusal)
}

// noLease is a refusal for want of a lease.
type noLease struct {
	fault   sessions.LeaseFault
	refusal *api.Error // what a client is told
}

func (e *noLease) Error() string { return e.refusal.Error() }

// Unwrap returns what a client is told.
func (e *noLease) Unwrap() error { return e.refusal }

// countStrict counts a request of which a client is told that it was refused, if that was for want
// of a lease.
func (s *Service) countStrict(ctx context.Context, err error) {
	var refused *noLease
	if !errors.As(err, &refused) {
		return
	}
	s.metrics.strict.WithLabelValues(string(refused.fault)).Inc()
	if refused.fault != sessions.LeaseOwner { // this region answers for its own sessions all the same
		s.strictness.tell(ctx, refused.fault)
	}
}

// tell logs that the region stops answering for strict organizations, or goes on.
func (x *strictness) tell(ctx context.Context, fault sessions.LeaseFault) {
	x.mu.Lock()
	told := x.told
	x.told = fault
	x.mu.Unlock()
	switch fault {
	case told:
	case sessions.LeaseHeld:
		x.log.LogAttrs(ctx, slog.LevelInfo, "sessions of strict organizations are answered again")
	default:
		x.log.LogAttrs(ctx, slog.LevelWarn, "sessions of strict organizations are not answered", slog.String("reason", string(fault)))
	}
}

// strictRefusal is what a client is told.
func strictRefusal(fault sessions.LeaseFault) *noLease {
	return &noLease{fault, &api.Error{
		Code: api.CodeUnavailable, RetryAfter: strictRetry,
		Detail: "no two regions may serve a session of this organization (takeover: strict): " + why(fault) + " (" + string(fault) + ")",
	}}
}

// why says what a fault means.
func why(fault sessions.LeaseFault) string {
	switch fault {
	case sessions.LeaseLost:
		return "this region is not heard by enough others"
	case sessions.LeaseSettling:
		return "this region is heard again and learns first what others have taken over"
	case sessions.LeaseUnseen:
		return "another region is out of sight and may still serve the session"
	case sessions.LeaseBehind:
		return "this region has not heard yet of all that others have taken over"
	default: // LeaseOwner
		return "its region is out of reach and may still serve it"
	}
}

// mayTakeStrictly returns which region is to go on with a session whose owner is out of reach: this one,
// or another; an error says why none may now. Sessions that are not strict are this one's.
func (s *Service) mayTakeStrictly(claims *api.RefreshClaims, owner string) (region string, err error) {
	if !s.strict(claims.Org) {
		return s.cfg.Region, nil
	}
	b, err := s.bounds(claims.Org, claims.Jurisdiction)
	if err != nil {
		return "", err
	}
	x := s.strictness
	complete := s.complete()
	x.mu.Lock()
	fault, heir := x.lease.TakesOver(owner, claims.SessionID, x.now(), complete, b.Allowed...)
	x.mu.Unlock()
	switch fault {
	case sessions.LeaseHeld:
		return s.cfg.Region, nil
	case sessions.LeaseHeir:
		return heir, nil
	default:
		return "", strictRefusal(fault)
	}
}

// mayGoOnWith returns why a strict session may not be taken over by what is known of it, nil if it may.
func (s *Service) mayGoOnWith(base *sessions.Record, token sessions.Stamp) error {
	if !s.strict(base.Org) {
		return nil
	}
	s.strictness.mu.Lock()
	fault := s.strictness.lease.MayGoOnWith(base, token)
	s.strictness.mu.Unlock()
	switch fault {
	case sessions.LeaseHeld:
		return nil
	case sessions.LeaseUncopied:
		return unavailable("no copy of the session as its region has it has arrived here (takeover: strict)", nil)
	default: // LeaseTaken
		return unavailable("the other region has taken the session over before and may still serve it (takeover: strict)", nil)
	}
}
