package residency

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

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/primary"
)

// Service is the name of the registrar's service: rpc.orgs.
const Service = "orgs"

// Methods of the registrar.
const (
	MethodSet  = "set"
	MethodGet  = "get"
	MethodList = "list"
	// MethodDelete removes an organization's document: DeleteRequest.
	MethodDelete = "delete"
)

// SetRequest changes an organization. What is empty, or nil, stays as it is.
type SetRequest struct {
	Org      string   `json:"org"`
	Takeover Takeover `json:"takeover,omitempty"`
	// Allowed and Fallbacks point to an empty list, Home to an empty string, where none is to be set.
	// Allowed is in any order.
	Allowed      *[]string `json:"allowed,omitempty"`
	Home         *string   `json:"home,omitempty"`
	Fallbacks    *[]string `json:"fallbacks,omitempty"`
	Jurisdiction string    `json:"jurisdiction,omitempty"`
	// Check has the change tried alone: nothing is written.
	Check bool `json:"check,omitempty"`
	// By is who asks, for the record.
	By string `json:"by,omitempty"`
	// Via is the region that has passed it on. Empty: it comes from an operator.
	Via string `json:"via,omitempty"`
}

// Apply returns what holds of an organization after the change, which may be invalid.
func (q SetRequest) Apply(o Org) Org {
	o.Takeover = cmp.Or(q.Takeover, o.Takeover)
	o.Jurisdiction = cmp.Or(q.Jurisdiction, o.Jurisdiction)
	if q.Allowed != nil {
		o.Allowed = slices.Clone(*q.Allowed)
		slices.Sort(o.Allowed)
	}
	if q.Home != nil {
		o.Home = *q.Home
	}
	if q.Fallbacks != nil {
		o.Fallbacks = slices.Clone(*q.Fallbacks)
	}
	return o
}

// DeleteRequest removes what is set of an organization: the defaults hold again.
type DeleteRequest struct {
	Org string `json:"org"`
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
	// Org is the one that was asked for or changed, Before the document that it had until then where that was
	// another; Changed says that it was changed, or would be, Set that it has a document.
	Org     *Org `json:"org,omitempty"`
	Before  *Org `json:"before,omitempty"`
	Changed bool `json:"changed,omitempty"`
	Set     bool `json:"set,omitempty"`
	// Orgs are those of the page.
	Orgs []Org `json:"orgs,omitempty"`
	// Next is the name after which the next page begins. Empty: this was the last.
	Next string `json:"next,omitempty"`
	// Jurisdictions are those that organizations can have besides the global one, with their regions. Set of
	// MethodGet and MethodList.
	Jurisdictions Jurisdictions `json:"jurisdictions,omitempty"`
	// Warnings are what an operator should know.
	Warnings []string `json:"warnings,omitempty"`
}

// Registrar answers what operators ask and want of organizations, in any region: what it cannot
// change itself it passes on to the primary.
type Registrar struct {
	seat      primary.Seat
	directory *Directory
	store     Store
	sets      Jurisdictions
	log       *slog.Logger
}

// Store is a primary.Store of which documents can be removed: Delete does so if the revision is still the
// last, with the errors of Put.
type Store interface {
	primary.Store
	Delete(ctx context.Context, name string, revision uint64) error
}

// RegistrarConfig is what a Registrar needs. Fields without a stated zero value are required.
type RegistrarConfig struct {
	Region string
	// Primary is the region in which organizations are changed. Empty: none is.
	Primary string
	// Directory is the region's copy, Store the primary's documents; it is used only there.
	Directory *Directory
	Store     Store
	Caller    primary.Caller
	// Jurisdictions are those that organizations can have besides the global one. nil: none.
	Jurisdictions Jurisdictions
	// Log is told of each change. nil: discarded.
	Log *slog.Logger
}

// NewRegistrar returns a registrar, or the first fault of c.
func NewRegistrar(c RegistrarConfig) (*Registrar, error) {
	r := &Registrar{
		seat: primary.Seat{
			Region: c.Region, Primary: c.Primary, Service: Service, Documents: "organizations", Store: c.Store, Caller: c.Caller,
		},
		directory: c.Directory, store: c.Store, sets: c.Jurisdictions, log: c.Log,
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if c.Store == nil {
		r.seat.Store = nil
	}
	if c.Directory == nil {
		return nil, errors.New("configure registrar: directory is required")
	}
	if err := r.seat.Validate(); err != nil {
		return nil, fmt.Errorf("configure registrar: %w", err)
	}
	return r, nil
}

// Methods returns what answers each method. An error is a *Refusal, or says that it is open what was
// done.
func (r *Registrar) Methods() map[string]func(ctx context.Context, data []byte) ([]byte, error) {
	return map[string]func(context.Context, []byte) ([]byte, error){
		MethodSet:    primary.Method(MaxOrg, r.Set),
		MethodGet:    primary.Method(MaxOrg, r.Get),
		MethodList:   primary.Method(MaxOrg, r.List),
		MethodDelete: primary.Method(MaxOrg, r.Delete),
	}
}

// maxBy bounds in bytes the name of who changes something.
const maxBy = 128

// Set changes an organization, durably in the primary region when it returns.
func (r *Registrar) Set(ctx context.Context, q SetRequest) (Reply, error) {
	q.By = q.By[:min(len(q.By), maxBy)]
	if !events.ValidToken(q.Org) {
		return Reply{}, primary.Refuse(http.StatusBadRequest, "organization %q: want 1 to %d of a-z 0-9 - _", q.Org, events.MaxToken)
	}
	if reply, done, err := elsewhere(ctx, r, MethodSet, &q, &q.Via); done {
		return reply, err
	}
	return r.change(ctx, q, time.Now())
}

// elsewhere has the primary region do what a request asks, if this is another one; via is the request's. Not done: it is to
// be done here.
func elsewhere[Q any](ctx context.Context, r *Registrar, method string, q *Q, via *string) (reply Reply, done bool, err error) {
	here, err := r.seat.Here(*via)
	if err != nil || here {
		return Reply{}, err != nil, err
	}
	*via = r.seat.Region
	reply, err = primary.Pass[Reply](ctx, &r.seat, method, q)
	return reply, true, err
}

// Subject returns the subject of a method in a region.
func Subject(region, method string) string { return primary.Subject(Service, region, method) }

// change writes the document.
func (r *Registrar) change(ctx context.Context, q SetRequest, now time.Time) (Reply, error) {
	reply := Reply{Region: r.seat.Region, Primary: r.seat.Primary, Set: true}
	var was Org
	err := r.seat.Change(ctx, q.Org, func(document []byte) (next []byte, err error) {
		org := Default(q.Org)
		if document != nil {
			// What another build has written is not to be lost by a change of this one.
			if org, err = Decode(q.Org, document); err != nil {
				return nil, primary.Refuse(http.StatusConflict, "%v; nothing was changed", err)
			}
		}
		before := org
		org = q.Apply(org)
		if err := org.Validate(); err != nil {
			return nil, primary.Refuse(http.StatusBadRequest, "%v", err)
		}
		reply.Org, reply.Before, reply.Changed = &org, nil, document == nil || !org.Equal(before)
		if !reply.Changed {
			return nil, nil
		}
		if was = before; document != nil {
			reply.Before = &before
		}
		if err := r.sets.Fit(org); err != nil && !sameBounds(org, before) {
			return nil, primary.Refuse(http.StatusBadRequest, "%v", err)
		}
		org.ChangedAt, org.ChangedBy = now.UTC().Truncate(time.Millisecond), q.By
		if next, err = Encode(org); err != nil {
			return nil, primary.Refuse(http.StatusBadRequest, "%v", err)
		}
		if q.Check {
			return nil, nil
		}
		return next, nil
	})
	if err != nil {
		return Reply{}, err
	}
	if reply.Changed && was.Jurisdiction != reply.Org.Jurisdiction {
		reply.Warnings = append(reply.Warnings, fmt.Sprintf("sessions of %s that have begun keep their copies in jurisdiction %s until they end; to have none there any more, end them: berth sessions revoke --org %s --jurisdiction %s",
			q.Org, was.Jurisdiction, q.Org, was.Jurisdiction))
	}
	if reply.Changed && !q.Check {
		r.log.LogAttrs(ctx, slog.LevelInfo, "organization is changed", slog.String("org", q.Org), slog.String("by", q.By))
	}
	return reply, nil
}

// sameBounds reports whether both have the same regions: what is not changed need not fit anew.
func sameBounds(a, b Org) bool {
	a.Takeover = b.Takeover
	return a.Equal(b)
}

// Delete removes an organization's document, durably in the primary region when it returns.
func (r *Registrar) Delete(ctx context.Context, q DeleteRequest) (Reply, error) {
	q.By = q.By[:min(len(q.By), maxBy)]
	if !events.ValidToken(q.Org) {
		return Reply{}, primary.Refuse(http.StatusBadRequest, "organization %q: want 1 to %d of a-z 0-9 - _", q.Org, events.MaxToken)
	}
	if reply, done, err := elsewhere(ctx, r, MethodDelete, &q, &q.Via); done {
		return reply, err
	}
	defaults := Default(q.Org)
	reply := Reply{Region: r.seat.Region, Primary: r.seat.Primary, Org: &defaults}
	for range deleteAttempts {
		document, revision, err := r.store.Get(ctx, q.Org)
		if err != nil {
			return Reply{}, primary.Refuse(http.StatusServiceUnavailable, "%s could not be read: %v", q.Org, err)
		}
		if document == nil {
			return reply, nil
		}
		switch err := r.store.Delete(ctx, q.Org, revision); {
		case errors.Is(err, primary.ErrConflict):
			continue
		case err != nil:
			return Reply{}, primary.Refuse(http.StatusServiceUnavailable, "whether %s was deleted is not known, try again: %v", q.Org, err)
		}
		r.log.LogAttrs(ctx, slog.LevelInfo, "organization is deleted", slog.String("org", q.Org), slog.String("by", q.By))
		reply.Changed = true
		return reply, nil
	}
	return Reply{}, primary.Refuse(http.StatusConflict, "%s is being changed by others; nothing was deleted", q.Org)
}

// deleteAttempts bounds how often a removal is tried again because a change came first.
const deleteAttempts = 8

// Get returns an organization as the region's copy has it.
func (r *Registrar) Get(_ context.Context, q GetRequest) (Reply, error) {
	if !events.ValidToken(q.Org) {
		return Reply{}, primary.Refuse(http.StatusBadRequest, "organization %q: want 1 to %d of a-z 0-9 - _", q.Org, events.MaxToken)
	}
	org, set, err := r.directory.Lookup(q.Org)
	if err != nil {
		return Reply{}, primary.Refuse(http.StatusServiceUnavailable, "%v", err)
	}
	reply := r.reply(time.Now())
	reply.Org, reply.Set = &org, set
	return reply, nil
}

// List returns a page of those that have a document. It may hold fewer than were wanted and go on; those
// whose document cannot be used stand in Warnings.
func (r *Registrar) List(_ context.Context, q ListRequest) (Reply, error) {
	if q.Limit < 0 || q.Limit > maxPage {
		return Reply{}, primary.Refuse(http.StatusBadRequest, "limit %d: want 1 to %d", q.Limit, maxPage)
	}
	list, err := r.directory.List(q.After)
	if err != nil {
		return Reply{}, primary.Refuse(http.StatusServiceUnavailable, "%v", err)
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

func (r *Registrar) reply(now time.Time) Reply {
	reply := Reply{Region: r.seat.Region, Primary: r.seat.Primary, Jurisdictions: r.sets}
	var warning string
	if reply.AgeMS, warning = r.seat.Age(r.directory.Current(), now); warning != "" {
		reply.Warnings = append(reply.Warnings, warning)
	}
	return reply
}
