package tokens

import (
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

// Mint returns the tokens that a service of that issuer and audience makes from a record.
func Mint(issuer, audience string, r *sessions.Record, keys *Keyring) (refresh, access string, err error) {
	m := mint{issuer: issuer, audience: api.Audience{audience}}
	if refresh, err = m.refresh(r, keys); err != nil {
		return "", "", err
	}
	access, err = m.access(r, keys)
	return refresh, access, err
}
