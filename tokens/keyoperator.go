package tokens

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/berthhq/berth/registry"
	"github.com/berthhq/berth/tokens/api"
)

// The methods of rpc.tokens about keys. MethodKeysKnown is for other regions, MethodKeysHeld for
// the services of the region, the rest for operators.
const (
	MethodKeysKnown  = "keys_known"
	MethodKeysHeld   = "keys_held"
	MethodKeysList   = "keys_list"
	MethodKeysRotate = "keys_rotate"
	MethodKeysRetire = "keys_retire"
)

// KeyMethod is a method about keys.
type KeyMethod struct {
	// Answer answers a request; KeyRefusal tells of its error.
	Answer func(ctx context.Context, data []byte) ([]byte, error)
	// Every says that all services of the region answer, not one of them.
	Every bool
}

// maxKeysRequest is the size in bytes that a request about keys may have, maxLive how many keys of
// a region may verify at one time: a rotation a day for the longest life of a token.
const (
	maxKeysRequest = 64 << 10
	maxLive        = 32
)

// RotateRequest asks for a new signing key.
type RotateRequest struct {
	// To is a key that the services hold already. Empty: one of them makes a key.
	To string `json:"to,omitempty"`
	// By says who asks.
	By string `json:"by,omitempty"`
}

// RetireRequest asks that nothing a key signed be good any more.
type RetireRequest struct {
	// KID is the key. Empty: the one that signs.
	KID string `json:"kid,omitempty"`
	By  string `json:"by,omitempty"`
}

// keysKnown is the request of one region to another, and its answer: of the keys asked for, those
// that it knows, and knows to be revoked.
type keysKnown struct {
	Region  string   `json:"region"`
	Known   []string `json:"known,omitempty"`
	Revoked []string `json:"revoked,omitempty"`
}

// KeyMethods returns what the service answers about keys, by the name of the method.
func (s *Service) KeyMethods() map[string]KeyMethod {
	p := s.public
	return map[string]KeyMethod{
		MethodKeysKnown: {Answer: answerKeys(p.answerKnown)},
		MethodKeysHeld: {Every: true, Answer: answerKeys(func(context.Context, none) (keyHolder, error) {
			return p.holder(), nil
		})},
		MethodKeysList:   {Answer: answerKeys(func(ctx context.Context, _ none) (KeysReply, error) { return p.list(ctx, ""), nil })},
		MethodKeysRotate: {Answer: answerKeys(p.startRotation)},
		MethodKeysRetire: {Answer: answerKeys(p.retire)},
	}
}

// answerKeys makes an Answer of a function of values. An empty request is the zero value.
func answerKeys[Request, Reply any](fn func(context.Context, Request) (Reply, error)) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, data []byte) ([]byte, error) {
		var q Request
		if len(data) > maxKeysRequest {
			return nil, &registry.Refusal{Code: registry.RefusedInvalid, Detail: fmt.Sprintf("a request may have %d bytes", maxKeysRequest)}
		}
		if len(data) > 0 {
			if err := json.Unmarshal(data, &q); err != nil {
				return nil, &registry.Refusal{Code: registry.RefusedInvalid, Detail: "the request cannot be read: " + err.Error()}
			}
		}
		reply, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(reply)
	}
}

// answerKnown tells another region what the bucket here holds of its keys. What it does not hold
// is asked of that region first: its word here alone makes no key known.
func (p *publicKeys) answerKnown(ctx context.Context, q keysKnown) (keysKnown, error) {
	if q.Region == p.cfg.Region || !p.inView(q.Region) {
		return keysKnown{}, &registry.Refusal{Code: registry.RefusedInvalid, Detail: fmt.Sprintf("region %q is not in the view of %s", q.Region, p.cfg.Region)}
	}
	if len(q.Known)+len(q.Revoked) > maxRegionLives {
		return keysKnown{}, &registry.Refusal{Code: registry.RefusedInvalid, Detail: "too many keys at once"}
	}
	ctx, cancel := context.WithTimeout(ctx, keyAskTimeout-unknownKeyPause/2)
	defer cancel()
	for asked := false; ; {
		reply := p.inBucket(q)
		if len(reply.Known) >= len(q.Known) && len(reply.Revoked) >= len(q.Revoked) {
			return reply, nil
		}
		if asked = !asked && p.refetch(ctx, q.Region, time.Now()); asked {
			continue
		}
		// It was asked a moment ago, perhaps before there was news.
		if wait(ctx, unknownKeyPause/4) != nil {
			return reply, nil
		}
	}
}

func (p *publicKeys) inBucket(q keysKnown) keysKnown {
	p.mu.Lock()
	defer p.mu.Unlock()
	reply := keysKnown{Region: p.cfg.Region}
	for _, kid := range q.Known {
		if keyRegion(kid) == q.Region && p.kept[kid].key {
			reply.Known = append(reply.Known, kid)
		}
	}
	for _, kid := range q.Revoked {
		if have := p.kept[kid]; keyRegion(kid) == q.Region && !have.life.Revoked.IsZero() && !have.key {
			reply.Revoked = append(reply.Revoked, kid)
		}
	}
	return reply
}

// refuse is an operator's request that cannot be met as things are.
func refuse(format string, args ...any) error {
	return &registry.Refusal{Code: registry.RefusedConflict, Detail: fmt.Sprintf(format, args...)}
}

// startRotation notes that a new key is wanted. One that is under way already goes on.
func (p *publicKeys) startRotation(ctx context.Context, q RotateRequest) (KeysReply, error) {
	if !p.published.Load() {
		return KeysReply{}, unavailable("the region's keys are not known here yet; try again in a moment", nil)
	}
	now := time.Now()
	line := p.own()
	if kid := line.coming(now); kid != "" && (q.To == "" || q.To == kid) {
		return p.list(ctx, kid), nil
	}
	if kid := line.pending(now); kid != "" {
		if q.To != "" && q.To != kid {
			return KeysReply{}, refuse("a rotation to %s is under way; let it end first, or give it up with: berth keys retire --now %s", kid, kid)
		}
		if p.anybodyHolds(ctx, kid) {
			return p.list(ctx, kid), nil
		}
		// Its private half was lost before anything was signed with it, which the change makes sure of.
		giveUp := func(life *api.KeyLife) {
			if life.Signs.IsZero() {
				revoke(life)
			}
		}
		if err := p.change(ctx, kid, giveUp); err != nil {
			return KeysReply{}, unavailable("the lost key could not be given up", err)
		}
	}
	kid, err := p.candidate(line, q.To, now)
	if err != nil {
		return KeysReply{}, err
	}
	p.log.LogAttrs(ctx, slog.LevelInfo, "key rotation begins", slog.String("kid", kid), slog.String("by", q.By))
	if err := p.want(ctx, kid); err != nil {
		return KeysReply{}, err
	}
	p.wake()
	// Of two rotations begun at once the earlier goes on.
	return p.list(ctx, cmp.Or(p.own().pending(now), kid)), nil
}

// revoke marks a key as revoked.
func revoke(life *api.KeyLife) {
	if life.Revoked.IsZero() {
		life.Revoked = moment(time.Now())
	}
}

// want publishes a key that this service holds, as one that is to sign.
func (p *publicKeys) want(ctx context.Context, kid string) error {
	p.held(time.Now())
	err := p.change(ctx, kid, func(life *api.KeyLife) {
		at := moment(time.Now())
		if life.Published.IsZero() {
			life.Published = at
		}
		if life.Wanted.IsZero() {
			life.Wanted = at
		}
	})
	if err != nil {
		return unavailable("the new key could not be published; nothing is lost: try again, with --to "+kid, err)
	}
	return nil
}

// anybodyHolds reports whether a token service of the region holds the key; in doubt it does.
func (p *publicKeys) anybodyHolds(ctx context.Context, kid string) bool {
	holders, err := p.holders(ctx)
	return err != nil || slices.ContainsFunc(holders, func(h keyHolder) bool { return slices.Contains(h.KIDs, kid) })
}

// candidate returns the key to rotate to: the one asked for, or a new one.
func (p *publicKeys) candidate(line keyLine, to string, now time.Time) (string, error) {
	signer := *p.signer.Load()
	if to != "" {
		life := line[to]
		if !p.known.Load().holds[to] {
			return "", &registry.Refusal{Code: registry.RefusedInvalid, Detail: fmt.Sprintf("%s does not hold a key %s", place(signer), to)}
		}
		if !life.Signs.IsZero() || !life.Revoked.IsZero() || !life.Wanted.IsZero() {
			return "", refuse("key %s is %s, or was wanted before: only a key that never signed can be rotated to", to, line.state(to, now))
		}
		return to, nil
	}
	live := 0
	for kid := range line {
		if line.verifies(kid, now) {
			live++
		}
	}
	if live >= maxLive {
		return "", refuse("%d keys of region %s are in use already, and each is until the last token it signed has expired; see: berth keys list", live, p.cfg.Region)
	}
	maker, ok := signer.(KeyMaker)
	if !ok {
		return "", refuse("%s cannot make keys; add one to it and name that with --to", place(signer))
	}
	kid, err := maker.MakeKey(func(kid string) bool { return line.maySign(kid, now) })
	if err != nil {
		return "", refuse("%v; where the file is not to be written to by berth, add a key to it and name that with --to", err)
	}
	return kid, nil
}

// retire revokes a key of the region. If it is the one that signs, another is there to follow
// before it ends, and signs at once: what the old one signed is not good any more, so nothing is
// gained by waiting until every region knows the new one.
func (p *publicKeys) retire(ctx context.Context, q RetireRequest) (KeysReply, error) {
	if !p.published.Load() {
		return KeysReply{}, unavailable("the region's keys are not known here yet; try again in a moment", nil)
	}
	now := time.Now()
	line := p.own()
	kid := q.KID
	if kid == "" {
		kid = line.signing(now)
	}
	life, known := line[kid]
	switch {
	case kid == "":
		return KeysReply{}, refuse("no key signs in region %s; make one with: berth keys rotate", p.cfg.Region)
	case !known && keyRegion(kid) != p.cfg.Region:
		return KeysReply{}, &registry.Refusal{Code: registry.RefusedInvalid, Detail: fmt.Sprintf("key %q is not of region %s; ask the NATS of its own region", kid, p.cfg.Region)}
	case !known:
		return KeysReply{}, &registry.Refusal{Code: registry.RefusedInvalid, Detail: fmt.Sprintf("region %s has no key %q; see: berth keys list", p.cfg.Region, kid)}
	}
	var warnings []string
	if life.Revoked.IsZero() {
		var err error
		if warnings, err = p.successor(ctx, line, kid, now); err != nil {
			return KeysReply{}, err
		}
		if err := p.change(ctx, kid, revoke); err != nil {
			return KeysReply{}, unavailable("the key could not be revoked; try again", err)
		}
		p.log.LogAttrs(ctx, slog.LevelWarn, "key revoked: what it signed is refused from now on",
			slog.String("kid", kid), slog.String("by", q.By))
	}
	p.goOn(ctx)
	edges, known := p.edges()
	if !known {
		warnings = append(warnings, "the other regions are not known yet; they are told as soon as they are")
	}
	if missing := p.tellRevoked(ctx, p.own()); len(missing) > 0 {
		warnings = append(warnings, fmt.Sprintf("%s cannot be told yet and may still honour what %s signed; told as soon as in reach", strings.Join(missing, ", "), kid))
	}
	p.wake()
	r := p.heardList(kid, edges)
	r.Warnings = warnings
	return r, nil
}

// goOn carries a rotation on until a key signs, for so long as whoever asked may wait: until then
// the region serves nobody.
func (p *publicKeys) goOn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, holdWait)
	defer cancel()
	for {
		p.rotate(ctx)
		if p.own().signing(time.Now()) != "" || wait(ctx, gatherTime/5) != nil {
			return
		}
	}
}

// holdWait bounds how long a key that has leaked stays in use because its successor is not held by
// all services of the region.
const holdWait = 3 * time.Second

// successor makes sure that a key can follow the one that is to be revoked.
func (p *publicKeys) successor(ctx context.Context, line keyLine, kid string, now time.Time) (warnings []string, err error) {
	if kid != line.signing(now) {
		return nil, nil
	}
	next := p.heir(line, line.pending(now), now)
	if next == "" {
		if next, err = p.candidate(line, "", now); err != nil {
			return nil, err
		}
	}
	if err := p.want(ctx, next); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, holdWait)
	defer cancel()
	for {
		holders, err := p.holders(ctx)
		var without []string
		for _, h := range holders {
			if !slices.Contains(h.KIDs, next) {
				without = append(without, h.Service)
			}
		}
		switch {
		case err == nil && len(without) == 0:
			return nil, nil
		case wait.Err() != nil && err != nil:
			return []string{err.Error()}, nil
		case wait.Err() != nil:
			return []string{fmt.Sprintf("these token services answer 503 until the key file with %s is copied to them: %s", next, strings.Join(without, "; "))}, nil
		}
		select {
		case <-wait.Done():
		case <-time.After(gatherTime / 2):
		}
	}
}

// KeyRefusal returns the status and the line by which an error of a KeyMethod is told.
func KeyRefusal(err error) (status int, detail string) {
	if r, ok := errors.AsType[*registry.Refusal](err); ok {
		return r.Code, r.Detail
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		detail = e.Detail
		if e.Cause != nil {
			detail += ": " + e.Cause.Error()
		}
		return e.Code.Status(), detail
	}
	return http.StatusInternalServerError, err.Error()
}
