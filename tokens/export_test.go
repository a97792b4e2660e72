package tokens

import (
	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens/api"
)

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
