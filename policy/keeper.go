package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/berthhq/berth/primary"
)

// Service is the name of the keeper's service: rpc.policy.
const Service = "policy"

// Methods of the keeper.
const (
	MethodSet = "set"
	MethodGet = "get"
)

// SetRequest posts a plan.
type SetRequest struct {
	// Document is the plan, in YAML or JSON.
	Document string `json:"document"`
	// By is who asks, for the record.
	By string `json:"by,omitempty"`
	// Via is the region that has passed it on. Empty: it comes from an operator.
	Via string `json:"via,omitempty"`
}

// GetRequest asks for the plan in force.
type GetRequest struct{}

// Reply says what is in force, as of the region's copy.
type Reply struct {
	// Region is whose copy it is, Primary where the policy is changed; empty: nowhere.
	Region  string `json:"region"`
	Primary string `json:"primary,omitempty"`
	// AgeMS is how old the copy may be; -1: that is not known.
	AgeMS int64 `json:"age_ms"`
	// Posted is what is in force, nil if nothing was ever posted: then it is what each token service
	// was started with. Changed says that it was posted by this request.
	Posted  *Posted `json:"posted,omitempty"`
	Changed bool    `json:"changed,omitempty"`
	// Name is the main policy, Summary the whole plan in a line.
	Name    string `json:"name"`
	Summary string `json:"summary"`
	// Warnings are what an operator should know.
	Warnings []string `json:"warnings,omitempty"`
}

// Keeper answers what operators ask and want of the policy, in any region: what it cannot change itself
// it passes on to the primary.
type Keeper struct {
	seat  primary.Seat
	board *Board
}

// KeeperConfig is what a Keeper needs. All fields but Primary are required.
type KeeperConfig struct {
	Region string
	// Primary is the region in which the policy is changed. Empty: none is.
	Primary string
	// Board is the region's copy, Store the primary's; it is used only there.
	Board  *Board
	Store  primary.Store
	Caller primary.Caller
}

// NewKeeper returns a keeper, or the first fault of c.
func NewKeeper(c KeeperConfig) (*Keeper, error) {
	k := &Keeper{
		seat:  primary.Seat{Region: c.Region, Primary: c.Primary, Service: Service, Documents: "policies", Store: c.Store, Caller: c.Caller},
		board: c.Board,
	}
	if c.Board == nil {
		return nil, errors.New("configure keeper of the policy: board is required")
	}
	if err := k.seat.Validate(); err != nil {
		return nil, fmt.Errorf("configure keeper of the policy: %w", err)
	}
	return k, nil
}

// maxRequest bounds in bytes a request: a document, all of it escaped, and what stands around it.
const maxRequest = 6*MaxSize + 4<<10

// Methods returns what answers each method. An error is a *primary.Refusal, or says that it is open what
// was done.
func (k *Keeper) Methods() map[string]func(ctx context.Context, data []byte) ([]byte, error) {
	return map[string]func(context.Context, []byte) ([]byte, error){
		MethodSet: primary.Method(maxRequest, k.Set),
		MethodGet: primary.Method(maxRequest, k.Get),
	}
}

// Subject returns the subject of a method in a region.
func Subject(region, method string) string { return primary.Subject(Service, region, method) }

// maxBy bounds in bytes the name of who changes something.
const maxBy = 128

// Set posts a plan, durably in the primary region when it returns. One that is invalid is refused.
func (k *Keeper) Set(ctx context.Context, q SetRequest) (Reply, error) {
	plan, err := Parse([]byte(q.Document))
	if err != nil {
		return Reply{}, primary.Refuse(http.StatusBadRequest, "%v", err)
	}
	here, err := k.seat.Here(q.Via)
	switch {
	case err != nil:
		return Reply{}, err
	case !here:
		q.Via = k.seat.Region
		return primary.Pass[Reply](ctx, &k.seat, MethodSet, q)
	}
	reply := Reply{Region: k.seat.Region, Primary: k.seat.Primary, Name: named(plan.base()), Summary: plan.String()}
	now := time.Now().UTC().Truncate(time.Millisecond)
	err = k.seat.Change(ctx, Name, func(document []byte) (next []byte, err error) {
		if document != nil {
			last, _, err := decode(document)
			if last.Version > postedVersion {
				return nil, primary.Refuse(http.StatusConflict, "%v; nothing was changed", err)
			}
			if reply.Posted = &last; err == nil && last.Document == q.Document {
				reply.Changed = false
				return nil, nil
			}
		}
		reply.Posted = &Posted{Version: postedVersion, Document: q.Document, ChangedAt: now, ChangedBy: q.By[:min(len(q.By), maxBy)]}
		reply.Changed = true
		return json.Marshal(reply.Posted)
	})
	if err != nil {
		return Reply{}, err
	}
	return reply, nil
}

// Get returns the plan in force as the region's copy has it.
func (k *Keeper) Get(context.Context, GetRequest) (Reply, error) {
	plan, posted, fault := k.board.InForce()
	reply := Reply{Region: k.seat.Region, Primary: k.seat.Primary, Posted: posted, Name: named(plan.base()), Summary: plan.String()}
	var warning string
	if reply.AgeMS, warning = k.seat.Age(k.board.Current(), time.Now()); warning != "" {
		reply.Warnings = append(reply.Warnings, warning)
	}
	if fault != nil {
		reply.Warnings = append(reply.Warnings, "what is posted is not in force: "+fault.Error())
	}
	return reply, nil
}
