package server

import "context"

type follower struct{}

func newFollower(string) *follower { return &follower{} }

func (a *Agent) followView(ctx context.Context) {}
