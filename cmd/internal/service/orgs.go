package service

import (
	"context"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/residency"
)

// organizations is what a token service knows of organizations, and what answers operators.
type organizations struct {
	directory *residency.Directory
	registrar *residency.Registrar
}

// newOrganizations wires them.
func newOrganizations(ctx context.Context, conn *jetstream.Conn, c *TokensConfig, alone bool) (organizations, error) {
	documents := conn.Documents(jetstream.BucketOrgs)
	home, err := primaryOf(ctx, conn, documents, c, alone)
	if err != nil {
		return organizations{}, err
	}
	directory := residency.NewDirectory(documents, c.Log)
	registrar, err := residency.NewRegistrar(residency.RegistrarConfig{
		Region: conn.Region(), Primary: home, Directory: directory, Store: documents, Caller: conn.DocumentsCaller(),
		Jurisdictions: c.Jurisdictions, Log: c.Log,
	})
	return organizations{directory, registrar}, err
}

// service is the NATS service by which operators ask about organizations and change them.
func (o organizations) service(region string) jetstream.ServiceConfig {
	return documentsService("berth_orgs", "Organizations", region, residency.Subject, o.registrar.Methods())
}
