package residency

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/berthhq/berth/events"
)

// ErrConflict says that a document was not written, for another change came first.
var ErrConflict = errors.New("organization changed meanwhile")

// Service is the name of the registrar's service: rpc.orgs.
const Service = "orgs"

// Methods of the registrar.
const (
	MethodSet  = "set"
	MethodGet  = "get"
	MethodList = "list"
)

// Store holds the documents of the region in which they are changed.
//
// Get returns what the last acknowledged Put wrote, never an older replica's state; nil and 0 where there
// is nothing. Put writes a document if the revision is still the last; on ErrConflict nothing was
// written, on any other error that is unknown. Neither retries. Both are safe for concurrent use.
type Store interface {
	Get(ctx context.Context, name string) (document []byte, revision uint64, err error)
	Put(ctx context.Context, name string, document []byte, revision uint64) error
}

// Caller sends a request to a service and waits for its one reply, until ctx ends. A refusal of the
// service is an error of type *Refusal; with any other it is open whether it did what was asked.
type Caller interface {
	Call(ctx context.Context, subject string, data []byte) ([]byte, error)
}

// Refusal is why something was not done.
type Refusal struct {
	// Code is a status of HTTP, Detail one line.
	Code   int
	Detail string
}

func (e *Refusal) Error() string { return e.Detail }

func refuse(code int, format string, args ...any) error {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// SetRequest changes an organization. What is empty stays as it is.
type SetRequest struct {
	Org      string   `json:"org"`
	Takeover Takeover `json:"takeover,omitempty"`
	// By is who asks, for the record.
	By string `json:"by,omitempty"`
	// Via is the region that has passed it on. Empty: it comes from an operator.
	Via string `json:"via,omitempty"`
}

// GetRequest asks for one organization.
type GetRequest struct {
	Org string `json:"org"`
}

// ListRequest asks for a page of the organizations that have a document, by name.
type ListRequest struct {
	// After is the name after which the page begins: Next of the page before; empty: the first.
	After string `json:"after,omitempty"`
	// Limit is how many are wanted at most, 1 to 1000; 0: 1000.
	Limit int `json:"limit,omitempty"`
}

// Bounds of a page, so that it is a message of NATS (1 MB by default) whatever stands in documents.
const (
	maxPage      = 1000
	maxPageBytes = 512 << 10
)

// Reply says what holds, as of the region's copy.
type Reply struct {
	// Region is whose copy it is, Primary where organizations are changed; empty: nowhere.
	Region  string `json:"region"`
	Primary string `json:"primary,omitempty"`
	// AgeMS is how old the copy may be; -1: that is not known.
	AgeMS int64 `json:"age_ms"`
	// Org is the one that was asked for or changed, Changed says that it was, Set that it has a document.
	Org     *Org `json:"org,omitempty"`
	Changed bool `json:"changed,omitempty"`
	Set     bool `json:"set,omitempty"`
	// Orgs are those of the page.
	Orgs []Org `json:"orgs,omitempty"`
	// Next is the name after which the next page begins. Empty: this was the last.
	Next string `json:"next,omitempty"`
	// Warnings are what an operator should know.
	Warnings []string `json:"warnings,omitempty"`
}

// Registrar answers what operators ask and want of organizations, in any region: what it cannot
// change itself it passes on to the primary.
type Registrar struct{ cfg RegistrarConfig }

// RegistrarConfig is what a Registrar needs. All fields but Primary are required.
type RegistrarConfig struct {
	Region string
	// Primary is the region in which organizations are changed. Empty: none is.
	Primary string
	// Directory is the region's copy, Store the primary's documents; it is used only there.
	Directory *Directory
	Store     Store
	Caller    Caller
}

// NewRegistrar returns a registrar, or the first fault of c.
func NewRegistrar(c RegistrarConfig) (*Registrar, error) {
	switch {
	case !events.ValidToken(c.Region):
		return nil, fmt.Errorf("configure registrar: region %q: want 1 to %d of a-z 0-9 - _", c.Region, events.MaxToken)
	case c.Primary != "" && !events.ValidToken(c.Primary):
		return nil, fmt.Errorf("configure registrar: primary region %q: want 1 to %d of a-z 0-9 - _", c.Primary, events.MaxToken)
	case c.Directory == nil || c.Store == nil || c.Caller == nil:
		return nil, errors.New("configure registrar: directory, store and caller are required")
	}
	return &Registrar{c}, nil
}

// Methods returns what answers each method. An error is a *Refusal, or says that it is open what was
// done.
func (r *Registrar) Methods() map[string]func(ctx context.Context, data []byte) ([]byte, error) {
	return map[string]func(context.Context, []byte) ([]byte, error){
		MethodSet:  method(r.Set),
		MethodGet:  method(r.Get),
		MethodList: method(r.List),
	}
}

func method[Q any](fn func(context.Context, Q) (Reply, error)) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, data []byte) ([]byte, error) {
		var q Q
		if len(data) > MaxOrg {
			return nil, refuse(http.StatusRequestEntityTooLarge, "request of %d bytes: at most %d are read", len(data), MaxOrg)
		}
		if err := json.Unmarshal(data, &q); err != nil {
			return nil, refuse(http.StatusBadRequest, "request cannot be read: %v", err)
		}
		reply, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(reply)
	}
}

// setAttempts bounds how often a change is tried again because another came first.
const setAttempts = 8

// maxBy bounds in bytes the name of who changes something.
const maxBy = 128

// Set changes an organization, durably in the primary region when it returns.
func (r *Registrar) Set(ctx context.Context, q SetRequest) (Reply, error) {
	q.By = q.By[:min(len(q.By), maxBy)]
	wanted := Default(q.Org)
	wanted.Takeover = cmp.Or(q.Takeover, wanted.Takeover)
	if err := wanted.Validate(); err != nil {
		return Reply{}, refuse(http.StatusBadRequest, "%v", err)
	}
	if q.Via != "" && r.cfg.Primary != r.cfg.Region {
		return Reply{}, refuse(http.StatusConflict, "region %s takes %s for the primary region, and that one %s: set the same --primary-region everywhere",
			q.Via, r.cfg.Region, cmp.Or(r.cfg.Primary, "none"))
	}
	switch r.cfg.Primary {
	case "":
		return Reply{}, refuse(http.StatusServiceUnavailable,
			"no primary region is set, so organizations cannot be changed: start the token services of all regions with the same --primary-region")
	case r.cfg.Region:
		return r.change(ctx, q)
	default:
		return r.pass(ctx, q)
	}
}

// pass has the primary region do it.
func (r *Registrar) pass(ctx context.Context, q SetRequest) (Reply, error) {
	q.Via = r.cfg.Region
	data, err := json.Marshal(q)
	if err != nil {
		return Reply{}, fmt.Errorf("encode request: %w", err)
	}
	answer, err := r.cfg.Caller.Call(ctx, Subject(r.cfg.Primary, MethodSet), data)
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		return Reply{}, refusal
	}
	if err != nil {
		return Reply{}, refuse(http.StatusServiceUnavailable, "organizations are changed in region %s, which does not answer %s: %v; if it was changed is not known, try again", r.cfg.Primary, r.cfg.Region, err)
	}
	var reply Reply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return Reply{}, refuse(http.StatusBadGateway, "region %s gave no proper answer: %v", r.cfg.Primary, err)
	}
	return reply, nil
}

// Subject returns the subject of a method in a region.
func Subject(region, method string) string {
	return events.Subject{
		Kind: events.KindRPC, Service: Service, Jurisdiction: events.GlobalJurisdiction, Region: region, Method: method,
	}.String()
}

// change writes the document.
func (r *Registrar) change(ctx context.Context, q SetRequest) (Reply, error) {
	err := ErrConflict
	for range setAttempts {
		var reply Reply
		if reply, err = r.tryChange(ctx, q, time.Now()); !errors.Is(err, ErrConflict) {
			return reply, err
		}
	}
	return Reply{}, refuse(http.StatusConflict, "organization %s is being changed by others; nothing was changed: %v", q.Org, err)
}

func (r *Registrar) tryChange(ctx context.Context, q SetRequest, now time.Time) (Reply, error) {
	data, revision, err := r.cfg.Store.Get(ctx, q.Org)
	if err != nil {
		return Reply{}, refuse(http.StatusServiceUnavailable, "organization %s could not be read: %v", q.Org, err)
	}
	org := Default(q.Org)
	if data != nil {
		// What another build has written is not to be lost by a change of this one.
		if org, err = Decode(q.Org, data); err != nil {
			return Reply{}, refuse(http.StatusConflict, "%v; nothing was changed", err)
		}
	}
	reply := Reply{Region: r.cfg.Region, Primary: r.cfg.Primary, Org: &org, Set: true}
	if data != nil && (q.Takeover == "" || q.Takeover == org.Takeover) {
		return reply, nil
	}
	org.Takeover = cmp.Or(q.Takeover, org.Takeover)
	org.ChangedAt, org.ChangedBy, reply.Changed = now.UTC().Truncate(time.Millisecond), q.By, true
	document, err := Encode(org)
	if err != nil {
		return Reply{}, refuse(http.StatusBadRequest, "%v", err)
	}
	switch err := r.cfg.Store.Put(ctx, q.Org, document, revision); {
	case errors.Is(err, ErrConflict):
		return Reply{}, err
	case err != nil:
		return Reply{}, refuse(http.StatusServiceUnavailable, "whether organization %s was changed is not known, try again: %v", q.Org, err)
	}
	return reply, nil
}

// Get returns an organization as the region's copy has it.
func (r *Registrar) Get(_ context.Context, q GetRequest) (Reply, error) {
	if !events.ValidToken(q.Org) {
		return Reply{}, refuse(http.StatusBadRequest, "organization %q: want 1 to %d of a-z 0-9 - _", q.Org, events.MaxToken)
	}
	org, set, err := r.cfg.Directory.Lookup(q.Org)
	if err != nil {
		return Reply{}, refuse(http.StatusServiceUnavailable, "%v", err)
	}
	reply := r.reply(time.Now())
	reply.Org, reply.Set = &org, set
	return reply, nil
}

// List returns a page of those that have a document. It may hold fewer than were wanted and go on; those
// whose document cannot be used stand in Warnings.
func (r *Registrar) List(_ context.Context, q ListRequest) (Reply, error) {
	if q.Limit < 0 || q.Limit > maxPage {
		return Reply{}, refuse(http.StatusBadRequest, "limit %d: want 1 to %d", q.Limit, maxPage)
	}
	list, err := r.cfg.Directory.List(q.After)
	if err != nil {
		return Reply{}, refuse(http.StatusServiceUnavailable, "%v", err)
	}
	reply := r.reply(time.Now())
	listed, size, last, limit := 0, 0, "", cmp.Or(q.Limit, maxPage)
	for e := range list {
		if listed == limit || size >= maxPageBytes {
			reply.Next = last
			break
		}
		listed, last = listed+1, e.Name
		if e.Fault != nil {
			warning := short(e.Fault.Error())
			reply.Warnings, size = append(reply.Warnings, warning), size+sizeOf(warning)
			continue
		}
		reply.Orgs, size = append(reply.Orgs, e.Org), size+sizeOf(e.Org)
	}
	return reply, nil
}

// maxWarning bounds in bytes what is said of one document.
const maxWarning = 512

// short returns the beginning of what is said of a document, which may quote it.
func short(s string) string {
	if len(s) <= maxWarning {
		return s
	}
	return strings.ToValidUTF8(s[:maxWarning], "") + "..."
}

// sizeOf returns about how many bytes a value takes in a reply.
func sizeOf(v any) int {
	data, err := json.Marshal(v)
	if err != nil {
		return 0 // then neither can the reply be written
	}
	return len(data) + 1
}

// staleAfter is the age from which an answer says that it may be old.
const staleAfter = 10 * time.Second

func (r *Registrar) reply(now time.Time) Reply {
	reply := Reply{Region: r.cfg.Region, Primary: r.cfg.Primary, AgeMS: -1}
	at := r.cfg.Directory.Current()
	if !at.IsZero() {
		reply.AgeMS = max(0, now.Sub(at)).Milliseconds()
	}
	if r.cfg.Primary == "" {
		reply.Warnings = append(reply.Warnings, "no primary region is set: organizations cannot be changed")
	} else if at.IsZero() || now.Sub(at) > staleAfter {
		reply.Warnings = append(reply.Warnings, fmt.Sprintf("region %s has not heard of region %s lately: what has changed there meanwhile is not known here", r.cfg.Region, r.cfg.Primary))
	}
	return reply
}
