package service

import (
	"context"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/policy"
)

// policies is what a token service knows of the policy, and what answers operators.
type policies struct {
	board  *policy.Board
	keeper *policy.Keeper
}

// newPolicies wires them.
func newPolicies(ctx context.Context, conn *jetstream.Conn, c *TokensConfig, alone bool) (policies, error) {
	documents := conn.Documents(jetstream.BucketPolicy)
	home, err := primaryOf(ctx, conn, documents, c, alone)
	if err != nil {
		return policies{}, err
	}
	board := policy.NewBoard(documents, policy.Named(c.Policy), c.Log)
	keeper, err := policy.NewKeeper(policy.KeeperConfig{
		Region: conn.Region(), Primary: home, Board: board, Store: documents, Caller: conn.DocumentsCaller(),
	})
	return policies{board, keeper}, err
}

// service is the NATS service by which operators ask about the policy and change it.
func (p policies) service(region string) jetstream.ServiceConfig {
	return documentsService("berth_policy", "Policy of placement", region, policy.Subject, p.keeper.Methods())
}
