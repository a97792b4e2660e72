package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/primary"
)

// documents is what a token service knows of what is changed in the primary region.
type documents struct {
	orgs     organizations
	policies policies
}

// newDocuments wires them.
func newDocuments(ctx context.Context, conn *jetstream.Conn, c *TokensConfig, alone bool) (d documents, err error) {
	if d.orgs, err = newOrganizations(ctx, conn, c, alone); err != nil {
		return documents{}, err
	}
	d.policies, err = newPolicies(ctx, conn, c, alone)
	return d, err
}

// run follows them, and answers operators, until ctx ends.
func (d documents) run(ctx context.Context, conn *jetstream.Conn) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.orgs.directory.Run(ctx) })
	g.Go(func() error { return conn.Serve(ctx, d.orgs.service(conn.Region())) })
	g.Go(func() error { return d.policies.board.Run(ctx) })
	g.Go(func() error { return conn.Serve(ctx, d.policies.service(conn.Region())) })
	return g.Wait()
}

// primaryOf returns the region in which documents are changed. Where nobody has said which one it is, a
// region without edges is its own, and one with edges has none: each region would have documents of its own.
func primaryOf(ctx context.Context, conn *jetstream.Conn, documents *jetstream.Documents, c *TokensConfig, alone bool) (string, error) {
	home, err := documents.Primary(ctx)
	if err == nil && home == conn.Region() && c.Topology.Primary == "" && !alone {
		home = ""
	}
	return home, err
}

// maxDocumentRequests is how many requests about documents of one kind a token service handles at once.
const maxDocumentRequests = 16

// documentsService is a NATS service by which operators ask about documents and change them. It answers
// with plain JSON, or with a service error that says what is wrong.
func documentsService(name, what, region string, subject func(region, method string) string,
	methods map[string]func(ctx context.Context, data []byte) ([]byte, error),
) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: name, Version: "1.0.0", Description: fmt.Sprintf("%s, as of region %s", what, region), Concurrency: maxDocumentRequests,
	}
	for _, method := range slices.Sorted(maps.Keys(methods)) {
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name: method, Subject: subject(region, method),
			Handler: func(ctx context.Context, r jetstream.Request) jetstream.Reply {
				data, err := methods[method](ctx, r.Data)
				if err == nil {
					return jetstream.Reply{Data: data}
				}
				code := http.StatusServiceUnavailable
				if refusal, ok := errors.AsType[*primary.Refusal](err); ok {
					code = refusal.Code
				}
				return jetstream.ErrorReply(strconv.Itoa(code), err.Error())
			},
		})
	}
	return cfg
}
