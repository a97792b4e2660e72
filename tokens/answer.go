package tokens

import (
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/residency"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// maxFallbacks is how many other ways in a token carries.
const maxFallbacks = 3

// answer turns a decision into what the client will be told. It fails with *api.Error if
// the view has lost the server meanwhile.
func (s *Service) answer(view *registry.View, rec *sessions.Record, d placement.Decision, b *residency.Bounds, now time.Time) (sessions.Answer, error) {
	server, ok := view.Server(d.Server)
	if !ok && d.Reason == placement.ReasonViewStale { // it began after the view was current
		server, ok = events.Server{Server: d.Server, Region: d.Region, URL: rec.Answer.URL, AuthURL: rec.Answer.AuthURL}, true
	}
	if !ok {
		return sessions.Answer{}, noServer()
	}
	kid, err := s.public.signing(now)
	if err != nil {
		return sessions.Answer{}, unavailable("the key that signs is not at hand", err)
	}
	a := sessions.Answer{
		Decision: string(d.Verdict), Reason: string(d.Reason),
		Server: server.Server, Region: server.Region, URL: server.URL, AuthURL: server.Auth(),
		Fallbacks: fallbacks(view, server, rec.Session, b), KID: kid,
	}
	s.date(&a, rec.ExpiresAt, now)
	if rec.Server != "" && rec.Server != d.Server {
		a.From = rec.Answer.Home()
	}
	return a, nil
}

// renewed returns the answer of a session that stays where it is, for its handover was given up.
func (s *Service) renewed(rec sessions.Record, now time.Time) sessions.Answer {
	a := rec.Answer
	a.Decision, a.Reason = string(placement.VerdictStay), string(placement.ReasonTargetRefused)
	a.From = events.Home{}
	if kid, err := s.public.signing(now); err == nil {
		a.KID = kid // else whoever signs by the old one says what is wrong
	}
	s.date(&a, rec.ExpiresAt, now)
	return a
}

// date writes the times into an answer of now.
func (s *Service) date(a *sessions.Answer, end, now time.Time) {
	a.IssuedAt = now.UTC().Truncate(time.Second)
	a.AccessExp = earlier(a.IssuedAt.Add(s.cfg.AccessTTL), end)
	a.RefreshExp = earlier(a.IssuedAt.Add(s.cfg.RefreshTTL), end)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// fallbacks returns ways in through other regions that may have the session, each through one of the
// region's servers, spread over the sessions: as the organization wants them, then nearest to the server
// first.
func fallbacks(view *registry.View, server events.Server, session string, b *residency.Bounds) []sessions.Fallback {
	list := []sessions.Fallback{}
	for _, r := range ordered(view, b, view.Fallbacks(server.Region)) {
		if through, ok := way(view, r, session); ok {
			list = append(list, sessions.Fallback{Region: through.Region, URL: through.Auth()})
		}
		if len(list) == maxFallbacks {
			break
		}
	}
	return list
}

// reply tells the client of the record's answer.
func (s *Service) reply(rec *sessions.Record, access, refresh string, now time.Time) api.TokensReply {
	a := &rec.Answer
	r := api.TokensReply{
		AccessToken: access, TokenType: "Bearer", ExpiresIn: secondsUntil(a.AccessExp, now),
		RefreshToken: refresh, RefreshExpiresIn: secondsUntil(a.RefreshExp, now),
		SessionID: rec.Session, Server: api.Server{ID: a.Server, Region: a.Region, URL: a.URL},
		AuthURL: a.AuthURL, Fallbacks: make([]api.Fallback, len(a.Fallbacks)),
		ServerChanged: a.From.Server != "", Decision: a.Decision, Reason: a.Reason, Rotated: true,
	}
	for i, f := range a.Fallbacks {
		r.Fallbacks[i] = api.Fallback(f)
	}
	r.Notice = noticeOf(a, s.home(rec))
	return r
}

// secondsUntil returns the whole seconds from now to t, at least 0.
func secondsUntil(t, now time.Time) int { return max(0, int(t.Sub(now).Round(time.Second).Seconds())) }

// release tells the server that a session left to refuse its older locks.
func release(rec *sessions.Record, now time.Time) *events.LockReleased {
	from := rec.Answer.From
	return &events.LockReleased{
		Version: events.Version, Region: from.Region, Server: from.Server, At: now.UTC(),
		Session: rec.Session, Epoch: rec.Epoch, To: rec.Answer.Home(),
	}
}

// releaseAgain tells the server of the record before, in whichever region, to refuse its locks.
func (s *Service) releaseAgain(y sessions.Yield) {
	from := y.Before.Answer
	if !s.tellsAbroad(&y.Before, from.Home()) {
		return
	}
	s.outbox.put(&events.LockReleased{
		Version: events.Version, Region: from.Region, Server: from.Server, At: time.Now().UTC(),
		Session: y.After.Session, Epoch: y.After.Epoch, To: y.After.Answer.Home(),
	})
}

// yielded tells of a session that another region has gone on with.
func (s *Service) yielded(y sessions.Yield) {
	now := time.Now()
	s.releaseAgain(y)
	if y.Conflict {
		s.outbox.put(s.sessionEvent(&y.Before, events.SessionConflict, string(placement.ReasonRegionDown), now))
	}
}

func (s *Service) sessionEvent(rec *sessions.Record, kind, reason string, now time.Time) *events.Session {
	return &events.Session{
		Version: events.Version, Region: s.cfg.Region, At: now.UTC(), Session: rec.Session, Kind: kind,
		Epoch: rec.Epoch, Generation: rec.Gen, Server: rec.Server, Reason: reason,
		Sub: rec.Subject, Org: rec.Org, Jurisdiction: rec.Jurisdiction,
	}
}

func (s *Service) revokedEvent(now time.Time, ids ...string) *events.Revoked {
	return &events.Revoked{Version: events.Version, Region: s.cfg.Region, At: now.UTC(), Sessions: ids}
}
