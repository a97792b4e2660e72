package sessions

import (
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/events/wire"
)

// Append appends the record to buf as encoding/json writes it, without reflection: that is done
// at every refresh. A test fails if a field is missing here.
func (r *Record) Append(buf []byte) ([]byte, error) {
	w := wire.NewWriter(buf)
	w.Open()
	w.Int("version", int64(r.Version))
	w.String("session", r.Session)
	writeEpoch(&w, "epoch", r.Epoch)
	w.Uint("gen", r.Gen)
	w.String("hash", r.Hash)
	r.Parent.write(&w, "parent", true)
	w.Time("minted_at", r.MintedAt)
	r.Grace.write(&w, "grace", false)
	r.Dead.write(&w, "dead", true)
	w.String("state", string(r.State))
	w.String("server", r.Server)
	w.String("op", r.Op)
	r.Answer.write(&w)
	r.writeMoves(&w)
	if !r.CriticalSince.IsZero() {
		w.Time("critical_since", r.CriticalSince)
	}
	if !r.MovedAt.IsZero() {
		w.Time("moved_at", r.MovedAt)
	}
	w.Filled("home", r.Home)
	w.Filled("bookmark", r.Bookmark)
	if r.Measured != nil {
		r.Measured.write(&w)
	}
	w.String("subject", r.Subject)
	w.String("client_id", r.ClientID)
	w.Filled("org", r.Org)
	w.Filled("scope", r.Scope)
	if len(r.Claims) > 0 {
		w.Object("claims")
		w.Fields(r.Claims, nil)
		w.Close()
	}
	w.String("jurisdiction", r.Jurisdiction)
	w.Time("started_at", r.StartedAt)
	w.Time("expires_at", r.ExpiresAt)
	w.Close()
	return w.Bytes()
}

// writeMoves writes what only a session has that moves, or has moved, between regions.
func (r *Record) writeMoves(w *wire.Writer) {
	if r.Intent != nil {
		w.Any("intent", r.Intent) // rare, and short-lived
	}
	w.Filled("source", r.Source)
	if r.Refused != (events.Epoch{}) {
		writeEpoch(w, "refused", r.Refused)
	}
	if len(r.Taken) > 0 {
		wire.Objects(w, "taken", r.Taken, writeStamp)
	}
	r.Abandoned.write(w, "abandoned", true)
}

func writeEpoch(w *wire.Writer, name string, e events.Epoch) {
	w.Object(name)
	w.Uint("number", e.Number)
	w.String("region", e.Region)
	w.Close()
}

// write writes a stamp as a field, unless it is zero and that is left out.
func (s Stamp) write(w *wire.Writer, name string, omitZero bool) {
	if omitZero && s.IsZero() {
		return
	}
	w.Object(name)
	writeStamp(w, &s)
	w.Close()
}

func writeStamp(w *wire.Writer, s *Stamp) {
	writeEpoch(w, "epoch", s.Epoch)
	w.Uint("gen", s.Gen)
}

func (a *Answer) write(w *wire.Writer) {
	w.Object("answer")
	w.String("decision", a.Decision)
	w.String("reason", a.Reason)
	if a.From != (events.Home{}) {
		w.Object("from")
		w.String("server", a.From.Server)
		w.String("region", a.From.Region)
		w.String("url", a.From.URL)
		w.Close()
	}
	w.String("server", a.Server)
	w.String("region", a.Region)
	w.String("url", a.URL)
	w.String("auth_url", a.AuthURL)
	wire.Objects(w, "fallbacks", a.Fallbacks, func(w *wire.Writer, f *Fallback) {
		w.String("region", f.Region)
		w.String("url", f.URL)
	})
	w.String("kid", a.KID)
	w.Time("issued_at", a.IssuedAt)
	w.Time("access_exp", a.AccessExp)
	w.Time("refresh_exp", a.RefreshExp)
	w.Close()
}
