package registry

import (
	"encoding/json"
	"errors"

	"github.com/berthhq/berth/events"
)

// The methods of a registry on rpc.registry.global.<region>.<method>. Requests and replies are
// JSON.
const (
	// MethodProbe has servers of other regions probed from the region that is asked:
	// ProbeRequest, ProbeReply.
	MethodProbe = "probe"
	// MethodView returns the region's whole view, in parts: ViewRequest, and an
	// events.ViewUpdate with Full set.
	MethodView = "view"
	// MethodPing is answered at once, by any registry of the region: PingReply. Whoever asks measures
	// the time.
	MethodPing = "ping"
)

// PingReply names the region that has answered.
type PingReply struct {
	Region string `json:"region"`
}

// MaxProbed is how many servers one ProbeRequest may name.
const MaxProbed = 100

// ProbeRequest names servers to probe. Their health URLs are those that the registry that
// answers has in its own view: nobody can have it fetch a URL of his choice.
type ProbeRequest struct {
	// Servers are 1 to MaxProbed ids.
	Servers []string `json:"servers"`
}

// ProbeReply is what became of the probes.
type ProbeReply struct {
	// Region is where they were made.
	Region string `json:"region"`
	// Outcomes holds the outcome of each server's probe. One that was not done in time is not
	// in it.
	Outcomes map[string]Outcome `json:"outcomes"`
}

// Outcome is what became of a probe.
type Outcome string

// The outcomes.
const (
	OutcomeGood    Outcome = "good"
	OutcomeFailed  Outcome = "failed"
	OutcomeRefused Outcome = "refused" // nobody listens there
	// OutcomeUnknown: the view has no such server, or it is one of the region that was asked,
	// which says what it knows of its own by its view.
	OutcomeUnknown Outcome = "unknown"
)

// outcomeOf returns the outcome of a probe that ended with err.
func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return OutcomeGood
	case errors.Is(err, ErrRefused):
		return OutcomeRefused
	}
	return OutcomeFailed
}

// ViewRequest asks for a part of a region's view. Which servers are in a part depends on their
// ids and Of alone, so that parts asked for one after the other are of one piece although the
// view changes meanwhile.
type ViewRequest struct {
	// Part is 1 to Of. Both are 0 in the first request: then the region decides on how many
	// parts there are, says so, and returns the first.
	Part int `json:"part,omitempty"`
	Of   int `json:"of,omitempty"`
}

// question is a request that can be wrong.
type question interface{ check() error }

// readQuestion reads a request.
func readQuestion(data []byte, q question) error {
	if err := decodeRequest(data, q); err != nil {
		return err
	}
	return q.check()
}

// decodeRequest reads a request that may be anything.
func decodeRequest(data []byte, q any) error {
	if len(data) > maxQuestion {
		return refuse(RefusedInvalid, "%d bytes, at most %d are read", len(data), maxQuestion)
	}
	if err := json.Unmarshal(data, q); err != nil {
		return refuse(RefusedInvalid, "the request is not the JSON that it should be: %s", err)
	}
	return nil
}

const maxQuestion = 64 << 10

func (q *ProbeRequest) check() error {
	if len(q.Servers) == 0 || len(q.Servers) > MaxProbed {
		return refuse(RefusedInvalid, "%d servers: want 1 to %d", len(q.Servers), MaxProbed)
	}
	for _, id := range q.Servers {
		if !events.ValidToken(id) {
			return refuse(RefusedInvalid, "server %q: want 1 to %d of a-z 0-9 - _", id, events.MaxToken)
		}
	}
	return nil
}

func (q *ViewRequest) check() error {
	if q.Part == 0 && q.Of == 0 {
		return nil
	}
	if q.Of < 1 || q.Of > maxParts || q.Part < 1 || q.Part > q.Of {
		return refuse(RefusedInvalid, "part %d of %d: want 1 to %d parts", q.Part, q.Of, maxParts)
	}
	return nil
}
