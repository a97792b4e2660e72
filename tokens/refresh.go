package tokens

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// probeTimeout bounds the one probe of a server that a client says has failed.
const probeTimeout = 500 * time.Millisecond

// refresh redeems a refresh token, as in says, if this region owns its session; else it returns the
// region that does. Errors are of type *api.Error.
func (s *Service) refresh(ctx context.Context, c call, in sessions.Request, req api.RefreshRequest) (reply api.TokensReply, owner string, err error) {
	r, err := s.redemption(c, req)
	if err != nil {
		in.Held.Release()
		return api.TokensReply{}, "", err
	}
	out, err := s.owner.Refresh(ctx, r.request(in), r)
	if err == nil && out.Judgement.Verdict == sessions.Elsewhere {
		return api.TokensReply{}, out.Owner, nil
	}
	reply, err = s.conclude(ctx, r, out, err)
	return reply, "", err
}

// mayTakeOver reports whether a region is out of reach of everybody who could tell.
func (s *Service) mayTakeOver(owner string) bool {
	silent, _ := s.sight.silent(owner, time.Now())
	return silent && s.cfg.Copies != nil && s.cfg.Edges != nil && s.edge(owner)
}

// edge reports whether copies come from a region.
func (s *Service) edge(region string) bool {
	return s.cfg.Edges == nil || slices.Contains(s.cfg.Edges(), region)
}

// takeOver redeems a token of a session whose owner is out of reach.
func (s *Service) takeOver(ctx context.Context, c call, claims *api.RefreshClaims, owner string, req api.RefreshRequest) (api.TokensReply, error) {
	r, err := s.redemption(c, req)
	if err != nil {
		return api.TokensReply{}, err
	}
	// By a token alone nobody knows who had the session handed over to him, nor who took it.
	young := r.now.Sub(time.Unix(claims.IssuedAt, 0)) < 2*s.cfg.AccessTTL && !s.strict(claims.Org)
	out, err := s.owner.TakeOver(ctx, r.request(claimed(claims)), owner, young, r)
	if err == nil && out.Judgement.Verdict == sessions.Elsewhere {
		err = unavailable("another region goes on with the session", nil)
	}
	return s.conclude(ctx, r, out, err)
}

// redemption returns the decider of a request.
func (s *Service) redemption(c call, req api.RefreshRequest) (*redemption, error) {
	view, err := s.able()
	if err != nil {
		return nil, err
	}
	return &redemption{s: s, call: c, req: req, view: view, stale: s.cfg.Stale(), now: time.Now()}, nil
}

// clockUntrusted is what clients are told while Config.Clock fails.
const clockUntrusted = "the service's clock is not known to be right"

// able returns the view to place sessions by. It fails with *api.Error while none can be.
func (s *Service) able() (*registry.View, error) {
	if err := s.cfg.Clock(); err != nil {
		return nil, unavailable(clockUntrusted, err)
	}
	view := s.outlook.view(s.cfg.View())
	if view == nil {
		return nil, unavailable("the servers are not known yet", nil)
	}
	return view, nil
}

// claimed returns the refresh that a verified token stands for.
func claimed(c *api.RefreshClaims) sessions.Request {
	return sessions.Request{Key: keyOf(c), Token: stamp(c), Rebuilt: func() sessions.Record { return rebuilt(c) }}
}

// request completes the refresh of a token by what the client asks for with it.
func (r *redemption) request(in sessions.Request) sessions.Request {
	in.Critical, in.Bookmark, in.Deadline, in.Floor = r.req.CriticalTaskInProgress, r.req.Bookmark, r.call.deadline, r.call.floor
	in.Measured = r.told()
	return in
}

// conclude makes an outcome into what the client is told, and tells others of what it made
// durable.
func (s *Service) conclude(ctx context.Context, r *redemption, out sessions.Outcome, err error) (api.TokensReply, error) {
	if err != nil {
		s.countStrict(ctx, err)
		s.metrics.refused(asError(refreshError(err)).Code)
		return api.TokensReply{}, refreshError(err)
	}
	s.metrics.refreshed(out.Judgement.Verdict)
	if out.Judgement.Verdict == sessions.Unrotated {
		return s.unrotated(ctx, r, &out)
	}
	if err := verdictError(out.Judgement.Verdict); err != nil {
		if out.Written {
			s.endedByReuse(ctx, &out.Record)
		}
		return api.TokensReply{}, err
	}
	s.afterRefresh(r, &out)
	if !out.Written {
		s.signHere(&out.Record, time.Now())
		if r.refresh, err = s.mint.refresh(&out.Record, s.public); err != nil {
			return api.TokensReply{}, unavailable("the tokens could not be signed again", err)
		}
	}
	if !out.Written || r.access == "" {
		r.Meanwhile(&out.Record)
	}
	if r.unsigned != nil {
		return api.TokensReply{}, unavailable("the tokens could not be signed", r.unsigned)
	}
	return s.reply(&out.Record, r.access, r.refresh, time.Now()), nil
}

// signHere has an answer that another region gave signed by this one's key: equal in all that
// counts, though not byte for byte.
func (s *Service) signHere(rec *sessions.Record, now time.Time) {
	if keyRegion(rec.Answer.KID) == s.cfg.Region {
		return
	}
	if kid, err := s.public.signing(now); err == nil {
		rec.Answer.KID = kid // else whoever signs by the other region's says what is wrong
	}
}

// verdictError returns the refusal that a verdict stands for, nil if it grants tokens.
func verdictError(v sessions.Verdict) error {
	switch v {
	case sessions.Rotate, sessions.Replay, sessions.Supersede:
		return nil
	case sessions.Superseded:
		return &api.Error{Code: api.CodeRefreshSuperseded, Detail: "read the newest refresh token from storage and retry once"}
	case sessions.Reused:
		return &api.Error{Code: api.CodeRefreshReused}
	case sessions.Ended:
		return &api.Error{Code: api.CodeSessionRevoked}
	default:
		return unavailable("the session's region is behind", nil)
	}
}

// refreshError returns the owner's error as the edge tells it.
func refreshError(err error) error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, sessions.ErrDeadline):
		return unavailable("the request's deadline had passed; nothing was done", err)
	case errors.Is(err, sessions.ErrStranded):
		return noServer()
	case errors.Is(err, sessions.ErrFloor):
		return unavailable("a newer lock of this session is on its way here", err)
	default:
		return unavailable("the session could not be read or written", err)
	}
}

// afterRefresh tells of what the outcome made durable. A repeated move releases the old lock
// again, in case the first release was lost with its sender.
func (s *Service) afterRefresh(r *redemption, out *sessions.Outcome) {
	rec := &out.Record
	if rec.Answer.From.Server != "" && s.tellsAbroad(rec, rec.Answer.From) {
		s.outbox.put(release(rec, r.now))
	}
	if !out.Written {
		return
	}
	kind := events.SessionRefreshed
	if out.Judgement.TakenOver {
		kind = events.SessionTakenOver
		s.sweeper.addPatient(rec.Key()) // who has lost the session may not hear the release
	} else if rec.Answer.From.Server != "" && rec.Answer.Decision == string(placement.VerdictMove) {
		kind = events.SessionMoved
	}
	s.tellDecision(r)
	s.demand.add(r.view.Origin(&r.founded.made.Request), r.since)
	s.outbox.put(s.sessionEvent(rec, kind, rec.Answer.Reason, r.now))
}

// tellDecision counts a decision and publishes it, unless it is one of too many stays.
func (s *Service) tellDecision(r *redemption) {
	s.metrics.decided(r.decision)
	if sampled, ok := s.stays.take(r.decision.Verdict, r.now); ok {
		e := s.decisionEvent(&r.founded, r.decision, r.before)
		e.Sampled = sampled
		s.outbox.put(e)
	}
}

// endedByReuse tells every region that a session was ended because an old token came back.
func (s *Service) endedByReuse(ctx context.Context, rec *sessions.Record) {
	now := time.Now()
	s.log.LogAttrs(ctx, slog.LevelWarn, "session revoked: an old refresh token was used again",
		slog.String("session", rec.Session), slog.String("server", rec.Server))
	revoked := s.revokedEvent(now, rec.Session)
	if err := s.outbox.send(ctx, revoked); err != nil {
		s.outbox.put(revoked)
	}
	s.outbox.put(s.sessionEvent(rec, events.SessionReused, string(api.CodeRefreshReused), now))
}

// redemption decides for one refresh. It is the sessions.Decider.
type redemption struct {
	s    *Service
	call call
	req  api.RefreshRequest
	view *registry.View
	// stale says that the view is too old to be believed about a death.
	stale bool
	now   time.Time
	// probed says that the server was probed already, gone what came of it: one probe a
	// refresh, however often it is judged. dead is the last word on the server.
	probed, gone, unreachable, dead bool
	// takenOver says that the session's owner is out of reach: what it may do is no matter here.
	takenOver bool
	// What was decided last, for the events: the epoch before, what it was founded on, the verdict as
	// it stands, and the new tokens; unsigned says why there is no access token.
	before          events.Epoch
	since           time.Duration // the time since the last refresh
	founded         decided
	decision        placement.Decision
	refresh, access string
	unsigned        error
}

var _ sessions.Busier = (*redemption)(nil)

// Dead implements sessions.Decider: down or left in the view (of an old view: and failed by a
// probe), failed by a probe that this refresh asked for, or twice reported out of reach by its
// client.
func (r *redemption) Dead(ctx context.Context, rec sessions.Record) (dead bool, err error) {
	if err := r.s.mayAnswer(&rec); err != nil {
		return false, err
	}
	defer func() { r.dead = dead }()
	server, known := r.view.Server(rec.Server)
	fell := known && !server.State.Alive()
	if fell && !r.stale {
		return true, nil
	}
	failed := rec.Server != "" && r.req.FailedServerID == rec.Server
	if !failed && !fell {
		return false, nil
	}
	if !r.probed {
		health := rec.Answer.URL + "/healthz"
		if known {
			health = server.Health()
		}
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		gone := r.s.cfg.Prober.Probe(probe, health) != nil
		if err := ctx.Err(); err != nil { // a probe cut short proves nothing
			return false, unavailable("the request ended while the server was probed", err)
		}
		r.gone, r.probed = gone, true
	}
	if r.gone || r.unreachable {
		return true, nil
	}
	if !failed {
		return false, nil // it has come back since the view was current
	}
	first, again := r.s.reports.add(rec.Session, rec.Server, rec.Epoch, r.now)
	if again {
		r.unreachable = true
		return true, nil
	}
	if first {
		r.s.outbox.put(&events.Report{
			Version: events.Version, Region: r.s.cfg.Region, At: r.now.UTC(),
			Session: rec.Session, Server: rec.Server, Epoch: rec.Epoch,
		})
	}
	return false, &api.Error{
		Code: api.CodeServerUnconfirmed, RetryAfter: 1,
		Detail: "server " + rec.Server + " answers from here; nothing was changed",
	}
}

// Answer implements sessions.Decider.
func (r *redemption) Answer(_ context.Context, rec sessions.Record, j sessions.Judgement) (sessions.Answer, error) {
	if !rec.ExpiresAt.After(r.now) {
		return sessions.Answer{}, &api.Error{Code: api.CodeSessionExpired}
	}
	if j.TakenOver {
		if err := r.s.mayGoOnWith(&rec, j.Token); err != nil {
			return sessions.Answer{}, err
		}
	}
	r.takenOver = j.TakenOver
	r.before, r.since = rec.Epoch, r.now.Sub(rec.Answer.IssuedAt)
	placed := r.facts(&rec)
	b, unknown := r.s.bounds(rec.Org, rec.Jurisdiction)
	switch {
	case unknown != nil && j.TakenOver:
		return sessions.Answer{}, unknown
	case unknown != nil:
		placed.Allowed = []string{rec.Answer.Region} // it comes to no other region than it is in
	case j.TakenOver && !b.Allows(r.s.cfg.Region): // since it was asked for
		return sessions.Answer{}, r.s.elsewhere(&b, r.call.arrived, rec.Session)
	default:
		bind(&placed, &b, r.view)
	}
	if j.Lost || j.TakenOver {
		placed.Server = ""
	}
	if j.TakenOver {
		placed.Allowed = []string{r.s.cfg.Region}
	}
	r.founded = r.s.decide(placed, r.view, r.now)
	d := r.founded.said
	if j.TakenOver {
		d.Reason = placement.ReasonRegionDown
	}
	if d.Reason == placement.ReasonViewStale {
		d.Server, d.Region = rec.Server, rec.Answer.Region // the view may not know it
	}
	forced := j.Verdict == sessions.Supersede && j.Fresh
	if d.Server == "" || (d.Verdict == placement.VerdictStay && (forced || r.dead)) {
		if unknown != nil {
			return sessions.Answer{}, unknown
		}
		return sessions.Answer{}, nowhere(r.view, &b)
	}
	r.decision = d
	a, err := r.s.answer(r.view, &rec, d, &b, r.now)
	if err == nil && j.Verdict == sessions.Supersede && a.From.Server == "" {
		// Whoever repeats an older token has not heard of the last answer, nor where it moved to.
		a.From = rec.Answer.From
	}
	return a, err
}

// facts returns what a placement of the session is founded on.
func (r *redemption) facts(rec *sessions.Record) placement.Request {
	return placement.Request{
		Session: rec.Session, Generation: rec.Gen, Server: rec.Server, Arrived: r.call.arrived,
		ClosestServer: r.req.ClosestServerID, Location: r.s.whereabouts(&r.call), RTT: r.measured(rec),
		Critical: r.req.CriticalTaskInProgress, CriticalSince: rec.CriticalSince,
		MovedAt: rec.MovedAt, Home: rec.Home, StartedAt: rec.StartedAt, Dead: r.gone, Unreachable: r.unreachable, Stale: r.stale,
	}
}

// Stay implements sessions.Stayer.
func (r *redemption) Stay(rec sessions.Record) sessions.Answer {
	r.decision.Verdict, r.decision.Reason = placement.VerdictStay, placement.ReasonTargetRefused
	r.decision.Server, r.decision.Region = rec.Answer.Server, rec.Answer.Region
	return r.s.renewed(rec, time.Now())
}

// Sign implements sessions.Stayer.
func (r *redemption) Sign(rec *sessions.Record) (err error) {
	r.access, r.unsigned = "", nil // if there is one, it is of another record
	if !r.takenOver {
		if err := r.s.mayAnswer(rec); err != nil { // it has taken its time
			return err
		}
	}
	r.refresh, err = r.s.signRefresh(rec)
	return err
}

// Meanwhile implements sessions.Busier: it signs the access token.
func (r *redemption) Meanwhile(rec *sessions.Record) {
	r.access, r.unsigned = r.s.mint.access(rec, r.s.public)
}

// signRefresh signs the record's refresh token and keeps its hash in the record.
func (s *Service) signRefresh(rec *sessions.Record) (string, error) {
	token, err := s.mint.refresh(rec, s.public)
	if err != nil {
		return "", err
	}
	rec.Hash = sessions.HashToken(token)
	return token, nil
}

func keyOf(c *api.RefreshClaims) sessions.Key {
	return sessions.Key{Jurisdiction: c.Jurisdiction, Session: c.SessionID}
}

func stamp(c *api.RefreshClaims) sessions.Stamp {
	return sessions.Stamp{Epoch: events.Epoch{Number: c.Epoch, Region: c.EpochRegion}, Gen: c.Generation}
}

// rebuilt returns what a refresh token's claims alone say of its session.
func rebuilt(c *api.RefreshClaims) sessions.Record {
	started := time.Unix(c.SessionStarted, 0).UTC()
	return sessions.Record{
		Version: sessions.RecordVersion, Session: c.SessionID, Subject: c.Subject, ClientID: c.ClientID,
		Org: c.Org, Scope: c.Scope, Claims: c.Own, Jurisdiction: c.Jurisdiction,
		StartedAt: started, ExpiresAt: started.Add(SessionTTL),
		Epoch: events.Epoch{Number: c.Epoch, Region: c.EpochRegion}, Gen: c.Generation,
	}
}
