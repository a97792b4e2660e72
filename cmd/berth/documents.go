package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/primary"
)

// askDocuments asks a service of the region at hand about documents, or to change one. An error of the
// service is a *primary.Refusal.
func askDocuments[R any](ctx context.Context, conn *jetstream.Conn, subject string, request any) (reply R, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	data, err := json.Marshal(request)
	if err != nil {
		return reply, fmt.Errorf("encode request: %w", err)
	}
	answer, err := conn.DocumentsCaller().Call(ctx, subject, data)
	refused := (*primary.Refusal)(nil)
	switch {
	case errors.As(err, &refused):
		return reply, refused
	case errors.Is(err, jetstream.ErrNoResponders):
		return reply, fmt.Errorf("no token service of region %s can be reached", conn.Region())
	case err != nil:
		return reply, err
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return reply, fmt.Errorf("read answer of the token service of %s: %w", conn.Region(), err)
	}
	return reply, nil
}
