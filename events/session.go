package events

import "time"

// Epoch orders the ownership of a session: by number, then by region. No region writes an
// epoch of another, so no two are ever the same.
type Epoch struct {
	Number uint64 `json:"number"`
	Region string `json:"region"`
}

// Compare returns -1, 0 or +1 as e is below, equal to or above o.
func (e Epoch) Compare(o Epoch) int {
	switch {
	case e.Number < o.Number, e.Number == o.Number && e.Region < o.Region:
		return -1
	case e == o:
		return 0
	default:
		return 1
	}
}

// Home is where a session is locked: one server.
type Home struct {
	Server string `json:"server"`
	Region string `json:"region"`
	URL    string `json:"url"`
}

// Decision is one verdict of a token service with all that it was founded on, so that it
// can be decided again.
type Decision struct {
	Version int       `json:"version"`
	Region  string    `json:"region"`
	At      time.Time `json:"at"`
	// Session, Generation and Epoch name the session's state before the decision; a login
	// has generation 0.
	Session    string `json:"session"`
	Generation uint64 `json:"generation"`
	Epoch      Epoch  `json:"epoch"`
	// Verdict is "stay" or "move", Reason the typed reason of placement.Decide.
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Policy  string `json:"policy"`
	// Variant is the policy's variant that the session is in, empty for the main one.
	Variant string `json:"variant,omitempty"`
	// Limits are those of the policy that are not the defaults. nil: all are.
	Limits *Limits `json:"limits,omitempty"`
	From   string  `json:"from,omitempty"`
	To     string  `json:"to,omitempty"`
	// Decided is what placement.Decide said where that is not what became of it, as when the
	// destination refused. nil: it is; or, of a reason that no rule gives, it was not asked.
	Decided *Decided `json:"decided,omitempty"`
	// Facts are what the client and the service said.
	Facts Facts `json:"facts"`
	// View maps each region to the sequence of the view update that was seen of it.
	View map[string]uint64 `json:"view"`
	// Instance and Sight name the Sight that holds the view. Empty: it was not recorded.
	Instance string `json:"instance,omitempty"`
	Sight    uint64 `json:"sight,omitempty"`
	// Prices are the regions' prices in milliseconds that it went by, of those that had one.
	Prices map[string]float64 `json:"prices,omitempty"`
	// Added is what sessions on their way added to servers' utilisation, of those where that was worth it.
	Added map[string]float64 `json:"added,omitempty"`
	// Draw is the uniform number in [0, 1) that the decision drew with.
	Draw float64 `json:"draw"`
	// Sampled, if more than 1, says that this decision stands for so many.
	Sampled int `json:"sampled,omitempty"`
}

// Decided is a verdict of placement.Decide.
type Decided struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	// To is the server where the session was to be; empty if none could have it.
	To string `json:"to,omitempty"`
}

// Limits are the numbers of a policy, named as in its document. Empty and 0: the default.
type Limits struct {
	// The times are written as 90s, 10m or 1h30m.
	CriticalBound   string  `json:"critical_bound,omitempty"`
	Cooldown        string  `json:"cooldown,omitempty"`
	ReturnAfter     string  `json:"return_after,omitempty"`
	DrainDeadline   string  `json:"drain_deadline,omitempty"`
	RefreshInterval string  `json:"refresh_interval,omitempty"`
	MaxRTTMs        float64 `json:"max_rtt_ms,omitempty"`
}

// Facts are the inputs of a decision besides the view and the policy.
type Facts struct {
	Arrived       string     `json:"arrived"`
	ClosestServer string     `json:"closest_server,omitempty"`
	Critical      bool       `json:"critical"`
	CriticalSince *time.Time `json:"critical_since,omitempty"`
	MovedAt       *time.Time `json:"moved_at,omitempty"`
	Location      *Location  `json:"location,omitempty"`
	// RTTMs are the round-trip times in milliseconds that the client measured, by server.
	RTTMs map[string]float64 `json:"rtt_ms,omitempty"`
	// Allowed are the regions where the session may be, sorted; none: all, an empty name: none.
	// Home is the region where it is while that can take it: its organization's, else the one that load or a
	// failure has sent it away from.
	Allowed []string `json:"allowed,omitempty"`
	Home    string   `json:"home,omitempty"`
	// Dead says that the session's server was found dead in this judgement; Unreachable
	// that its client reported it twice.
	Dead        bool `json:"dead,omitempty"`
	Unreachable bool `json:"unreachable,omitempty"`
	// Stale says that the view was too old to move sessions by.
	Stale bool `json:"stale,omitempty"`
}

// Subject returns decision.<region>.<verdict>.<reason>.
func (d *Decision) Subject() Subject {
	return Subject{Kind: KindDecision, Region: d.Region, Verdict: d.Verdict, Reason: d.Reason}
}

func (d *Decision) check() error {
	if err := checkHeader(d.Version, d.At); err != nil {
		return err
	}
	if d.Verdict != "stay" && d.Verdict != "move" {
		return malformed("verdict %q: want stay or move", d.Verdict)
	}
	return checkTokens([2]string{"region", d.Region}, [2]string{"reason", d.Reason}, [2]string{"session", d.Session})
}

// What happens to a session, the last token of its event's subject.
const (
	SessionCreated   = "created"
	SessionRefreshed = "refreshed"
	SessionMoved     = "moved"
	SessionTakenOver = "taken_over"
	SessionRevoked   = "revoked"
	SessionReused    = "reused"
	SessionConflict  = "conflict"
	SessionUnrotated = "unrotated"
)

// Session says what happened to a session.
type Session struct {
	Version int       `json:"version"`
	Region  string    `json:"region"`
	At      time.Time `json:"at"`
	Session string    `json:"session"`
	// Kind is one of the Session… constants.
	Kind       string `json:"kind"`
	Epoch      Epoch  `json:"epoch"`
	Generation uint64 `json:"generation"`
	Server     string `json:"server"`
	Reason     string `json:"reason,omitempty"`
	// Sub is the subject of the token: the user.
	Sub          string `json:"subject,omitempty"`
	Org          string `json:"org,omitempty"`
	Jurisdiction string `json:"jurisdiction"`
	// By is who asked for it, where an operator did.
	By string `json:"by,omitempty"`
}

// Subject returns session.<region>.<kind>.
func (s *Session) Subject() Subject {
	return Subject{Kind: KindSession, Region: s.Region, State: s.Kind}
}

func (s *Session) check() error {
	if err := checkHeader(s.Version, s.At); err != nil {
		return err
	}
	switch s.Kind {
	case SessionCreated, SessionRefreshed, SessionMoved, SessionTakenOver,
		SessionRevoked, SessionReused, SessionConflict, SessionUnrotated:
	default:
		return malformed("kind %q", s.Kind)
	}
	return checkTokens([2]string{"region", s.Region}, [2]string{"session", s.Session})
}

// LockReleased tells a server to refuse a session's tokens below an epoch from now on.
type LockReleased struct {
	Version int `json:"version"`
	// Region and Server name the old server, to which this is said.
	Region  string    `json:"region"`
	Server  string    `json:"server"`
	At      time.Time `json:"at"`
	Session string    `json:"session"`
	// Epoch is the first that is valid; To is where the session is locked now.
	Epoch Epoch `json:"epoch"`
	To    Home  `json:"to"`
}

// Subject returns lock.<region>.<server>.released.
func (l *LockReleased) Subject() Subject {
	return Subject{Kind: KindLock, Region: l.Region, Server: l.Server}
}

func (l *LockReleased) check() error {
	if err := checkHeader(l.Version, l.At); err != nil {
		return err
	}
	return checkTokens([2]string{"region", l.Region}, [2]string{"server", l.Server},
		[2]string{"session", l.Session}, [2]string{"epoch region", l.Epoch.Region})
}

// MaxRevoked is how many sessions one Revoked names at most: with ids of MaxToken bytes its
// payload stays below 64 KiB.
const MaxRevoked = 900

// Revoked tells every region to refuse the sessions' tokens. It may be told again; a region
// that was out of reach hears it so.
type Revoked struct {
	Version int `json:"version"`
	// Region is the region that revoked.
	Region   string    `json:"region"`
	At       time.Time `json:"at"`
	Sessions []string  `json:"sessions"`
}

// Subject returns revoked.<region>.
func (r *Revoked) Subject() Subject { return Subject{Kind: KindRevoked, Region: r.Region} }

func (r *Revoked) check() error {
	if err := checkHeader(r.Version, r.At); err != nil {
		return err
	}
	if len(r.Sessions) > MaxRevoked {
		return malformed("%d sessions, at most %d are read", len(r.Sessions), MaxRevoked)
	}
	for _, s := range r.Sessions {
		if !ValidToken(s) {
			return malformed("session %q", s)
		}
	}
	return checkTokens([2]string{"region", r.Region})
}

// Report says that a client could not reach its server, so that every token service of the
// region knows of the first report when the second comes.
type Report struct {
	Version int       `json:"version"`
	Region  string    `json:"region"`
	At      time.Time `json:"at"`
	Session string    `json:"session"`
	Server  string    `json:"server"`
	Epoch   Epoch     `json:"epoch"`
}

// Subject returns report.<region>.
func (r *Report) Subject() Subject { return Subject{Kind: KindReport, Region: r.Region} }

func (r *Report) check() error {
	if err := checkHeader(r.Version, r.At); err != nil {
		return err
	}
	return checkTokens([2]string{"region", r.Region}, [2]string{"server", r.Server}, [2]string{"session", r.Session})
}
