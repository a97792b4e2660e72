package sessions

import (
	"encoding/json"
	"fmt"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/events/wire"
)

// DecodeRecord returns the record that data holds as encoding/json reads it, mostly without
// reflection.
func DecodeRecord(data []byte) (*Record, error) {
	r := new(Record)
	d := decoder{Scanner: wire.Scan(data), text: string(data)}
	if d.record(r); d.End() {
		return r, nil
	}
	*r = Record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	return r, nil
}

// decoder reads records as Append writes them. What it does not know, such as a field that was
// added since, stops it, and encoding/json reads the record instead.
type decoder struct {
	wire.Scanner
	// text is what is scanned: the strings of a record are parts of it.
	text string
	// inner says that what is read is a record of an intent, which has none of its own.
	inner bool
}

func (d *decoder) string() string { return d.Part(d.text) }

func (d *decoder) record(r *Record) {
	d.Object(func(key []byte) int {
		switch string(key) {
		case "version":
			r.Version = d.Whole()
			return 0
		case "session":
			r.Session = d.string()
			return 1
		case "epoch":
			d.epoch(&r.Epoch)
			return 2
		case "gen":
			r.Gen = d.Natural()
			return 3
		case "hash":
			r.Hash = d.string()
			return 4
		case "parent":
			d.stamp(&r.Parent)
			return 5
		case "minted_at":
			r.MintedAt = d.Time()
			return 6
		case "grace":
			d.stamp(&r.Grace)
			return 7
		case "dead":
			d.stamp(&r.Dead)
			return 8
		case "state":
			r.State = State(d.string())
			return 9
		case "server":
			r.Server = d.string()
			return 10
		case "op":
			r.Op = d.string()
			return 11
		case "answer":
			d.answer(&r.Answer)
			return 12
		default:
			return d.lasting(r, key)
		}
	})
}

// lasting reads a field that most refreshes do not change.
func (d *decoder) lasting(r *Record, key []byte) int {
	switch string(key) {
	case "critical_since":
		r.CriticalSince = d.Time()
		return 13
	case "moved_at":
		r.MovedAt = d.Time()
		return 14
	case "bookmark":
		r.Bookmark = d.string()
		return 15
	case "subject":
		r.Subject = d.string()
		return 16
	case "client_id":
		r.ClientID = d.string()
		return 17
	case "org":
		r.Org = d.string()
		return 18
	case "scope":
		r.Scope = d.string()
		return 19
	case "claims":
		r.Claims = d.claims()
		return 20
	case "jurisdiction":
		r.Jurisdiction = d.string()
		return 21
	case "started_at":
		r.StartedAt = d.Time()
		return 22
	case "expires_at":
		r.ExpiresAt = d.Time()
		return 23
	case "source":
		r.Source = d.string()
		return 24
	case "refused":
		d.epoch(&r.Refused)
		return 25
	case "taken":
		r.Taken = d.stamps()
		return 26
	case "abandoned":
		d.stamp(&r.Abandoned)
		return 27
	case "measured":
		r.Measured = d.measured()
		return 28
	case "home":
		r.Home = d.string()
		return 29
	case "intent":
		if d.inner {
			return wire.Unknown
		}
		r.Intent = new(Intent)
		d.intent(r.Intent)
		return 30
	default:
		return wire.Unknown
	}
}

func (d *decoder) intent(i *Intent) {
	d.inner = true
	d.Object(func(key []byte) int {
		switch string(key) {
		case "deadline":
			i.Deadline = d.Time()
			return 0
		case "next":
			i.Next = new(Record)
			d.record(i.Next)
			return 1
		default:
			return wire.Unknown
		}
	})
	d.inner = false
}

// claims reads what an application has set, mostly texts. A name that comes twice counts with its
// last value, as everywhere.
func (d *decoder) claims() map[string]any {
	m := map[string]any{}
	d.Open()
	for first := true; d.OK(); first = false {
		name, more := d.Key(first)
		if !more {
			break
		}
		from := d.At()
		value := d.Value()
		if len(value) > 0 && value[0] == '"' {
			d.Back(from)
			m[string(name)] = d.string()
			continue
		}
		var v any
		if json.Unmarshal(value, &v) != nil {
			d.Stop()
		}
		m[string(name)] = v
	}
	return m
}

func (d *decoder) epoch(e *events.Epoch) {
	d.Object(func(key []byte) int {
		switch string(key) {
		case "number":
			e.Number = d.Natural()
			return 0
		case "region":
			e.Region = d.string()
			return 1
		default:
			return wire.Unknown
		}
	})
}

func (d *decoder) stamp(s *Stamp) {
	d.Object(func(key []byte) int {
		switch string(key) {
		case "epoch":
			d.epoch(&s.Epoch)
			return 0
		case "gen":
			s.Gen = d.Natural()
			return 1
		default:
			return wire.Unknown
		}
	})
}

func (d *decoder) stamps() []Stamp {
	list := []Stamp{}
	d.List()
	for first := true; d.OK() && d.Item(first); first = false {
		var s Stamp
		d.stamp(&s)
		list = append(list, s)
	}
	return list
}

func (d *decoder) answer(a *Answer) {
	d.Object(func(key []byte) int {
		switch string(key) {
		case "decision":
			a.Decision = d.string()
			return 0
		case "reason":
			a.Reason = d.string()
			return 1
		case "from":
			d.home(&a.From)
			return 2
		case "server":
			a.Server = d.string()
			return 3
		case "region":
			a.Region = d.string()
			return 4
		case "url":
			a.URL = d.string()
			return 5
		case "auth_url":
			a.AuthURL = d.string()
			return 6
		case "fallbacks":
			a.Fallbacks = d.fallbacks()
			return 7
		case "kid":
			a.KID = d.string()
			return 8
		case "issued_at":
			a.IssuedAt = d.Time()
			return 9
		case "access_exp":
			a.AccessExp = d.Time()
			return 10
		case "refresh_exp":
			a.RefreshExp = d.Time()
			return 11
		default:
			return wire.Unknown
		}
	})
}

func (d *decoder) home(h *events.Home) {
	d.Object(func(key []byte) int {
		switch string(key) {
		case "server":
			h.Server = d.string()
			return 0
		case "region":
			h.Region = d.string()
			return 1
		case "url":
			h.URL = d.string()
			return 2
		default:
			return wire.Unknown
		}
	})
}

func (d *decoder) fallbacks() []Fallback {
	list := []Fallback{}
	d.List()
	for first := true; d.OK() && d.Item(first); first = false {
		var f Fallback
		d.Object(func(key []byte) int {
			switch string(key) {
			case "region":
				f.Region = d.string()
				return 0
			case "url":
				f.URL = d.string()
				return 1
			default:
				return wire.Unknown
			}
		})
		list = append(list, f)
	}
	return list
}
