package tokens

import (
	"context"
	"log/slog"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// unrotated has a client go on where it is, although its session could not be changed: with an
// access token for the same server, and the refresh token that it has (V11). A client whose
// server is dead is not helped by that.
func (s *Service) unrotated(ctx context.Context, r *redemption, out *sessions.Outcome) (api.TokensReply, error) {
	rec := out.Record
	if out.Cause != nil {
		s.faults.note(ctx, out.Cause)
		s.log.LogAttrs(ctx, slog.LevelDebug, "session goes on unrotated", slog.String("session", rec.Session), slog.String("error", out.Cause.Error()))
	}
	now := time.Now() // the probe may take its time
	dead, err := r.Dead(ctx, rec)
	if err == nil && dead {
		err = unavailable("the session's server is dead, and no other can be written down now", nil)
	}
	if err == nil {
		rec.Answer, err = s.unchanged(rec, now)
	}
	var access string
	if err == nil {
		if access, err = s.mint.unrotated(&rec, s.public); err != nil {
			err = unavailable("the access token could not be signed", err)
		}
	}
	if err == nil && time.Now().After(r.call.deadline) { // V3
		err = unavailable("the request's deadline had passed; nothing was done", nil)
	}
	if err != nil {
		s.metrics.refused(asError(err).Code)
		return api.TokensReply{}, err
	}
	r.before, r.founded = rec.Epoch, s.undecided(r.facts(&rec), r.view, r.now)
	r.decision = placement.Decision{
		Verdict: placement.VerdictStay, Reason: placement.ReasonStoreUnavailable, Server: rec.Answer.Server, Region: rec.Answer.Region,
	}
	s.tellDecision(r)
	s.outbox.put(s.sessionEvent(&rec, events.SessionUnrotated, rec.Answer.Reason, now))
	tokens := s.reply(&rec, access, "", now)
	tokens.Rotated, tokens.RefreshExpiresIn = false, 0
	return tokens, nil
}

// unchanged returns the answer of a session of which nothing could be changed.
func (s *Service) unchanged(rec sessions.Record, now time.Time) (sessions.Answer, error) {
	kid, err := s.public.signing(now)
	if err != nil {
		return sessions.Answer{}, unavailable("the key that signs is not at hand", err)
	}
	a := rec.Answer
	a.Decision, a.Reason = string(placement.VerdictStay), string(placement.ReasonStoreUnavailable)
	a.From, a.KID = events.Home{}, kid
	s.date(&a, rec.ExpiresAt, now)
	return a, nil
}

// contactEvery is how old the last proven contact with the store's leader may grow before one is
// sought: a region with few refreshes would otherwise have none when the leader is lost.
const contactEvery = 10 * time.Second

// keepContact keeps the contact with the store's leader young, until ctx ends.
func (s *Service) keepContact(ctx context.Context) {
	store := s.cfg.Store
	nobody := sessions.Key{Jurisdiction: events.GlobalJurisdiction, Session: "_contact"}
	for {
		if time.Since(store.Contact()) >= contactEvery {
			_, _, _ = store.Get(ctx, nobody) // that there is none is an answer
		}
		if wait(ctx, contactEvery) != nil {
			return
		}
	}
}

// hearRevoked has whatever is known of sessions forgotten that were ended, by whichever service
// of whichever region, until ctx ends.
func (s *Service) hearRevoked(ctx context.Context) {
	s.hear(ctx, events.Subject{Kind: events.KindRevoked}.Filter(), func(subject string, data []byte) {
		e, err := events.Decode(subject, data)
		revoked, ok := e.(*events.Revoked)
		if err != nil || !ok {
			s.metrics.skippedEvents.Inc()
			return
		}
		for _, id := range revoked.Sessions {
			s.cache.Forget(sessions.Key{Session: id})
		}
	})
}
