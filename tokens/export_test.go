package tokens

import (
	"context"
	"time"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// KeyLine is the history of a region's keys, for its tests.
type KeyLine map[string]api.KeyLife

// VerifyLife is how long a key verifies after another took over.
const VerifyLife = verifyLife

func (l KeyLine) Signing(now time.Time) string             { return keyLine(l).signing(now) }
func (l KeyLine) Pending(now time.Time) string             { return keyLine(l).pending(now) }
func (l KeyLine) State(kid string, now time.Time) KeyState { return keyLine(l).state(kid, now) }
func (l KeyLine) MaySign(kid string, now time.Time) bool   { return keyLine(l).maySign(kid, now) }
func (l KeyLine) Verifies(kid string, now time.Time) bool  { return keyLine(l).verifies(kid, now) }
func (l KeyLine) SignsUntil(kid string) time.Time          { return keyLine(l).signsUntil(kid) }

// Mint returns the tokens that a service of that issuer and audience makes from a record.
func Mint(issuer, audience string, r *sessions.Record, keys *Keyring) (refresh, access string, err error) {
	m := newMint(issuer, audience)
	if refresh, err = m.refresh(r, keys); err != nil {
		return "", "", err
	}
	access, err = m.access(r, keys)
	return refresh, access, err
}

// EncodeReply returns a reply as it is sent.
func EncodeReply(r *api.TokensReply) ([]byte, error) { return appendReply(nil, r) }

// DecodeRefresh reads a refresh request; scanned says that it was plain.
func DecodeRefresh(data []byte) (r api.RefreshRequest, scanned bool, err error) {
	scanned = scanRefresh(data, new(api.RefreshRequest))
	r, err = decode[api.RefreshRequest](data)
	return r, scanned, err
}

// Unsettled returns how many sessions the sweeper sees through.
func (s *Service) Unsettled() int { return s.sweeper.unsettled() }

// RunKeys does what Run does about keys, alone.
func (s *Service) RunKeys(ctx context.Context) error { return s.public.run(ctx) }

// SigningKey returns the key that signs new tokens.
func (s *Service) SigningKey(now time.Time) (string, error) { return s.public.signing(now) }

// Admit verifies a refresh token as a request's is.
func (s *Service) Admit(ctx context.Context, token string) error {
	_, err := s.claims(ctx, token)
	return err
}

// RefuseUnknown takes every key that is not known for one that was retired.
func (s *Service) RefuseUnknown() { s.verify.Retired = func(string) bool { return true } }

// SetLeaseClock sets the clock by which the service's lease runs, before Run.
func (s *Service) SetLeaseClock(now func() time.Time) { s.strictness.now = now }

// FindPrices does at once what Run does every ten seconds.
func (s *Service) FindPrices(ctx context.Context, now time.Time) {
	s.market.solve(ctx, s.cfg.View(), now)
}
