package events

import (
	"cmp"
	"fmt"
	"strings"
)

// Prefix begins every subject of berth.
const Prefix = "berth.v1."

// MaxToken is the length in bytes that one token of a subject may have.
const MaxToken = 64

// Kind is what a subject carries: its first token after Prefix.
type Kind string

// The kinds. All but KindRPC name events.
const (
	KindHeartbeat Kind = "heartbeat"
	KindLoad      Kind = "load"
	KindServer    Kind = "server"
	KindRegion    Kind = "region"
	KindView      Kind = "view"
	KindSight     Kind = "sight"
	KindDecision  Kind = "decision"
	KindSession   Kind = "session"
	KindLock      Kind = "lock"
	KindRevoked   Kind = "revoked"
	KindReport    Kind = "report"
	KindDemand    Kind = "demand"
	KindRPC       Kind = "rpc"
)

// GlobalJurisdiction is the jurisdiction of sessions that are bound to no other.
const GlobalJurisdiction = "global"

// LocalJurisdiction stands for one region in the subjects of replies: what is answered inside a region
// never leaves it. No session is bound to it.
const LocalJurisdiction = "local"

// Subject is a parsed subject. The zero values of fields that its kind does not use are
// empty, so two subjects are the same if they are equal.
//
//	heartbeat.<Region>.<Server>            load.<Region>.<Server>
//	server.<Region>.<Server>.<State>       region.<Region>.<State>
//	view.<Region>                          decision.<Region>.<Verdict>.<Reason>
//	session.<Region>.<State>               lock.<Region>.<Server>.released
//	revoked.<Region>                       report.<Region>
//	demand.<Region>
//	sight.<Region>.<Instance>
//	rpc.<Service>.<Jurisdiction>.<Region>.<Method>
type Subject struct {
	Kind   Kind
	Region string
	// Server is set for heartbeat, load, server and lock.
	Server string
	// State is set for server and region (the state) and session (what happened).
	State string
	// Instance is set for sight.
	Instance string
	// Verdict and Reason are set for decision.
	Verdict, Reason string
	// Service, Jurisdiction and Method are set for rpc.
	Service, Jurisdiction, Method string
}

// released is the one thing that is said of a lock.
const released = "released"

// fields are those of a Subject that follow its kind, nil after the last.
type fields [4]*string

// fields lists what follows the kind, but for the last token of a lock; nothing for an unknown
// kind.
func (s *Subject) fields() fields {
	switch s.Kind {
	case KindHeartbeat, KindLoad, KindLock:
		return fields{&s.Region, &s.Server}
	case KindServer:
		return fields{&s.Region, &s.Server, &s.State}
	case KindRegion, KindSession:
		return fields{&s.Region, &s.State}
	case KindView, KindRevoked, KindReport, KindDemand:
		return fields{&s.Region}
	case KindSight:
		return fields{&s.Region, &s.Instance}
	case KindDecision:
		return fields{&s.Region, &s.Verdict, &s.Reason}
	case KindRPC:
		return fields{&s.Service, &s.Jurisdiction, &s.Region, &s.Method}
	default:
		return fields{}
	}
}

// count returns how many there are.
func (f *fields) count() int {
	n := 0
	for n < len(f) && f[n] != nil {
		n++
	}
	return n
}

// String returns the subject as it is published.
func (s Subject) String() string { return s.join("") }

// Filter returns the subject with "*" for each empty field: what one subscribes to.
func (s Subject) Filter() string { return s.join("*") }

func (s Subject) join(empty string) string {
	var b strings.Builder
	b.Grow(MaxToken) // enough for most
	b.WriteString(Prefix)
	b.WriteString(string(s.Kind))
	list := s.fields()
	for _, t := range list[:list.count()] {
		b.WriteByte('.')
		b.WriteString(cmp.Or(*t, empty))
	}
	if s.Kind == KindLock {
		b.WriteByte('.')
		b.WriteString(released)
	}
	return b.String()
}

// ParseSubject returns the parts of a subject. It fails with ErrUnknown for one outside
// Prefix or of a kind that this build does not know, and with ErrMalformed for a known kind
// with the wrong number of tokens or a token that is not ValidToken.
func ParseSubject(subject string) (Subject, error) {
	rest, ok := strings.CutPrefix(subject, Prefix)
	if !ok {
		return Subject{}, fmt.Errorf("%w: subject %q", ErrUnknown, subject)
	}
	got := strings.Count(rest, ".")
	kind, rest, _ := strings.Cut(rest, ".")
	s := Subject{Kind: Kind(kind)}
	list := s.fields()
	want := list.count()
	if want == 0 {
		return Subject{}, fmt.Errorf("%w: subject %q", ErrUnknown, subject)
	}
	var last string
	if s.Kind == KindLock {
		list[want], want = &last, want+1
	}
	if got != want {
		return Subject{}, malformed("subject %q has %d tokens after %q, want %d", subject, got, s.Kind, want)
	}
	for _, field := range list[:want] {
		if *field, rest, _ = strings.Cut(rest, "."); !ValidToken(*field) {
			return Subject{}, malformed("subject %q: token %q", subject, *field)
		}
	}
	if s.Kind == KindLock && last != released {
		return Subject{}, fmt.Errorf("%w: subject %q", ErrUnknown, subject)
	}
	return s, nil
}

// ValidToken reports whether s can stand as one token of a subject and one part of a bucket
// key: 1 to MaxToken lower-case letters, digits, "-" and "_".
func ValidToken(s string) bool {
	if s == "" || len(s) > MaxToken {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// Inbox returns the prefix of the reply subjects that a service of the jurisdiction uses, so
// that leaf links can keep replies inside it too.
func Inbox(jurisdiction string) string { return "_INBOX_" + jurisdiction }

// Copies returns the prefix, without wildcard, of the subjects that deliver copies of the
// jurisdiction's sessions.
func Copies(jurisdiction string) string { return "berth.copies." + jurisdiction }

// LeafExportDenials returns the subjects that a region's leaf link does not let out, besides
// LeafDenials: what is asked of the region itself and what its own servers are told name
// sessions and users, and whoever subscribes to everything elsewhere would hear it.
func LeafExportDenials(region string) []string {
	return []string{
		Prefix + string(KindRPC) + ".*.*." + region + ".>",
		Prefix + string(KindLock) + "." + region + ".>",
	}
}

// LeafDenials returns the subjects that a region's leaf link denies in both directions:
// what stays in its region, and everything of the jurisdictions in others, of which the
// region is not a member. View updates, revocations, and the requests of shared jurisdictions
// and locks released in other regions remain.
func LeafDenials(others []string) []string {
	var deny []string
	for _, k := range []Kind{KindHeartbeat, KindLoad, KindServer, KindRegion, KindDecision, KindSession, KindSight, KindReport, KindDemand} {
		deny = append(deny, Prefix+string(k)+".>")
	}
	deny = append(deny, Inbox(LocalJurisdiction)+".>")
	deny = append(deny, "$JS.EVENT.>") // who reads what in a region: keys name sessions
	deny = append(deny, "$SYS.>")      // whose connections come and go, and who asks who it is
	// Who signs in a region is not for another to say: it could log everybody out.
	for _, method := range []string{"keys_rotate", "keys_retire"} {
		deny = append(deny, Prefix+string(KindRPC)+".tokens.*.*."+method)
	}
	for _, j := range others {
		deny = append(deny,
			Prefix+string(KindRPC)+".*."+j+".>",
			Copies(j)+".>",
			Inbox(j)+".>")
	}
	return deny
}
