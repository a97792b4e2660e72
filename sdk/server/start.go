package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens/api"
)

// StartSession begins a session for a user that the application has authenticated itself, and
// returns what is to be handed to the client. The server that the reply names may be another
// than this one: give the user's address in the request, and where token services have a GeoIP database it is one close to
// the user. It takes at most 10 s; errors are of type *api.Error.
func (a *Agent) StartSession(ctx context.Context, req api.StartRequest) (api.TokensReply, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return api.TokensReply{}, &api.Error{Code: api.CodeInvalidRequest, Detail: "the claims are not JSON", Cause: err}
	}
	deadline := time.Now().Add(passDeadline)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if at, ok := ctx.Deadline(); ok {
		deadline = at
	}
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set(api.HeaderDeadline, deadline.UTC().Format(time.RFC3339Nano))
	header.Set(api.HeaderArrived, a.cfg.Region)
	if events.ValidToken(req.Org) {
		if refusal := a.mayBegin(ctx, req.Org, header); refusal != nil {
			return api.TokensReply{}, refusal
		}
	}
	got, err := a.askTokens(ctx, events.GlobalJurisdiction, api.MethodStart, header, body)
	if err != nil {
		return api.TokensReply{}, a.notAnswering(err)
	}
	if got.status >= http.StatusMultipleChoices {
		return api.TokensReply{}, got.problem()
	}
	var reply api.TokensReply
	if err := json.Unmarshal(got.body, &reply); err != nil {
		return api.TokensReply{}, unavailable("the region's token service gave no proper answer", err)
	}
	return reply, nil
}

// problem returns a refusal as the error it was.
func (g *answer) problem() *api.Error {
	var p api.Problem
	if err := json.Unmarshal(g.body, &p); err != nil || p.Code == "" {
		return unavailable("the region's token service gave no proper answer", err)
	}
	retryAfter, _ := strconv.Atoi(g.header.Get("Retry-After")) // absent: 0
	return &api.Error{
		Code: api.Code(p.Code), Detail: p.Detail, Server: p.Server, Fields: p.Errors, RetryAfter: retryAfter,
	}
}
