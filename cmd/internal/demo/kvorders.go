package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// bucket keeps the demo's orders, in each region its own.
const bucket = "demo_orders"

// orderLife is how long an order is kept: it is a demo.
const orderLife = 24 * time.Hour

// kvOrders keeps orders in a bucket of the region's JetStream domain, shared by the region's
// servers.
type kvOrders struct{ kv natsjs.KeyValue }

var _ Orders = kvOrders{}

// openOrders makes the bucket if it is not there.
func openOrders(ctx context.Context, js natsjs.JetStream) (kvOrders, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, natsjs.KeyValueConfig{
		Bucket: bucket, Description: "Orders of the demo servers of this region", Storage: natsjs.FileStorage,
		TTL: orderLife, MaxBytes: 64 << 20,
	})
	if err != nil {
		return kvOrders{}, fmt.Errorf("open bucket %s: %w", bucket, err)
	}
	return kvOrders{kv}, nil
}

// Load implements Orders.
func (k kvOrders) Load(ctx context.Context, id string) (Order, error) {
	var o Order
	entry, err := k.kv.Get(ctx, id)
	switch {
	case errors.Is(err, natsjs.ErrKeyNotFound), errors.Is(err, natsjs.ErrInvalidKey):
		return o, fmt.Errorf("%w: %q", errNoOrder, id)
	case err != nil:
		return o, fmt.Errorf("load order %q: %w", id, err)
	}
	if err := json.Unmarshal(entry.Value(), &o); err != nil {
		return o, fmt.Errorf("load order %q: %w", id, err)
	}
	return o, nil
}

// Save implements Orders.
func (k kvOrders) Save(ctx context.Context, o Order) error {
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("save order %q: %w", o.ID, err)
	}
	if _, err := k.kv.Put(ctx, o.ID, data); err != nil {
		return fmt.Errorf("save order %q: %w", o.ID, err)
	}
	return nil
}
