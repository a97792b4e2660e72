package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// peers asks the token services of other regions about sessions, over
// rpc.tokens.<jurisdiction>.<region>.<kind>.
type peers struct{ s *Service }

var _ sessions.Peers = peers{}

// peerKinds are the questions that token services ask each other. No client's request, and no
// regional server's, ever becomes one: NATS lets only token services publish them.
func peerKinds() []sessions.Kind {
	return []sessions.Kind{sessions.Adopting, sessions.Promising, sessions.Activating, sessions.Showing}
}

// Ask implements sessions.Peers.
func (p peers) Ask(ctx context.Context, region string, q sessions.Question) (sessions.Reply, error) {
	data, err := json.Marshal(q.Record)
	if err != nil {
		return sessions.Reply{}, fmt.Errorf("encode question: %w", err)
	}
	subject := events.Subject{
		Kind: events.KindRPC, Service: "tokens", Jurisdiction: q.Record.Jurisdiction, Region: region, Method: string(q.Kind),
	}
	header := http.Header{}
	if at, ok := ctx.Deadline(); ok {
		header.Set(api.HeaderDeadline, at.UTC().Format(time.RFC3339Nano))
	}
	m, err := p.s.ask(ctx, subject, header, data)
	if err != nil {
		return sessions.Reply{}, err
	}
	if m.status != http.StatusOK {
		return sessions.Reply{}, fmt.Errorf("region %s answers %d", region, m.status)
	}
	var reply sessions.Reply
	if err := json.Unmarshal(m.body, &reply); err != nil {
		return sessions.Reply{}, fmt.Errorf("read answer of region %s: %w", region, err)
	}
	if r := reply.Record; r != nil && (r.Version > sessions.RecordVersion || r.Key() != q.Record.Key()) {
		return sessions.Reply{}, fmt.Errorf("region %s answers with a record of version %d of session %s", region, r.Version, r.Session)
	}
	return reply, nil
}

// servePeer answers a question of another region's token service.
func (s *Service) servePeer(ctx context.Context, kind sessions.Kind, header http.Header, data []byte) message {
	deadline := time.Now().Add(sessions.AdoptTimeout)
	if at, err := time.Parse(time.RFC3339Nano, header.Get(api.HeaderDeadline)); err == nil && at.Before(deadline) {
		deadline = at
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	reply, err := s.answerPeer(ctx, kind, data)
	if err != nil {
		return s.refusal(ctx, string(kind), err)
	}
	m, err := success(reply)
	if err != nil {
		return s.refusal(ctx, string(kind), err)
	}
	return m
}

func (s *Service) answerPeer(ctx context.Context, kind sessions.Kind, data []byte) (sessions.Reply, error) {
	var rec sessions.Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return sessions.Reply{}, &api.Error{Code: api.CodeInvalidRequest, Detail: "the record is not readable", Cause: err}
	}
	if !events.ValidToken(rec.Session) || !events.ValidToken(rec.Jurisdiction) || rec.Version > sessions.RecordVersion {
		return sessions.Reply{}, &api.Error{Code: api.CodeInvalidRequest, Detail: fmt.Sprintf("the record of version %d names no session that can be here", rec.Version)}
	}
	if !s.cfg.Jurisdictions.Has(rec.Jurisdiction, s.cfg.Region) {
		return sessions.Reply{}, &api.Error{Code: api.CodeInvalidRequest, Detail: fmt.Sprintf("region %s is not in jurisdiction %s", s.cfg.Region, rec.Jurisdiction)}
	}
	reply, err := s.owner.Answer(ctx, sessions.Question{Kind: kind, Record: rec}, s.admit)
	if errors.Is(err, sessions.ErrUnavailable) || errors.Is(err, sessions.ErrDeadline) || errors.Is(err, sessions.ErrConflict) {
		return reply, unavailable("the session could not be read or written", err)
	}
	if err != nil {
		return reply, &api.Error{Code: api.CodeInvalidRequest, Detail: err.Error()}
	}
	return reply, nil
}

// Why this region does not take a session that another hands over.
const (
	refusedView   = "no_view"
	refusedServer = "server_not_up"
	refusedLease  = "no_lease"
	// refusedResidency: the session may not be in this region.
	refusedResidency = "residency"
)

// admit says why a session that is offered cannot come here, empty if it can.
func (s *Service) admit(offer sessions.Record) string {
	view := s.cfg.View()
	if view == nil {
		return refusedView
	}
	server, ok := view.Server(offer.Server)
	if !ok || server.Region != s.cfg.Region || server.State != events.StateUp {
		return refusedServer
	}
	if b, err := s.bounds(offer.Org, offer.Jurisdiction); err != nil || !b.Allows(s.cfg.Region) {
		return refusedResidency
	}
	if s.mayAnswer(&offer) != nil { // else it could be taken over before it is answered here
		return refusedLease
	}
	return ""
}
