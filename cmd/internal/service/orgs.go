package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/primary"
	"github.com/berthhq/berth/residency"
)

// maxOrgRequests is how many requests about organizations a token service handles at once.
const maxOrgRequests = 16

// organizations is what a token service knows of organizations, and what answers operators.
type organizations struct {
	directory *residency.Directory
	registrar *residency.Registrar
}

// newOrganizations wires them. Where nobody has said which region is the primary one, a region without
// edges is its own, and one with edges has none: each region would have organizations of its own.
func newOrganizations(ctx context.Context, conn *jetstream.Conn, c *TokensConfig, alone bool) (organizations, error) {
	orgs := conn.Documents(jetstream.BucketOrgs)
	primary, err := orgs.Primary(ctx)
	if err != nil {
		return organizations{}, err
	}
	if primary == conn.Region() && c.Topology.Primary == "" && !alone {
		primary = ""
	}
	directory := residency.NewDirectory(orgs, c.Log)
	registrar, err := residency.NewRegistrar(residency.RegistrarConfig{
		Region: conn.Region(), Primary: primary, Directory: directory, Store: orgs, Caller: conn.DocumentsCaller(),
	})
	return organizations{directory, registrar}, err
}

// service is the NATS service by which operators ask about organizations and change them. It answers
// with plain JSON, or with a service error that says what is wrong.
func (o organizations) service(region string) jetstream.ServiceConfig {
	cfg := jetstream.ServiceConfig{
		Name: "berth_orgs", Version: "1.0.0", Description: fmt.Sprintf("Organizations, as of region %s", region), Concurrency: maxOrgRequests,
	}
	methods := o.registrar.Methods()
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		cfg.Endpoints = append(cfg.Endpoints, jetstream.Endpoint{
			Name: name, Subject: residency.Subject(region, name),
			Handler: func(ctx context.Context, r jetstream.Request) jetstream.Reply {
				data, err := methods[name](ctx, r.Data)
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
