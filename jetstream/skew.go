package jetstream

import (
	"context"
	"fmt"
	"time"
)

// Skew returns how far this machine's clock is ahead of NATS's, negative if behind, to within
// the time that the question took, which is the second result. NATS is the one clock that all
// services of a region can be compared with.
func (c *Conn) Skew(ctx context.Context) (skew, within time.Duration, err error) {
	asked := time.Now()
	s, err := c.js.Stream(ctx, StreamEvents)
	if err != nil {
		return 0, 0, fmt.Errorf("compare clocks: %w", err)
	}
	within = time.Since(asked)
	return asked.Add(within / 2).Sub(s.CachedInfo().TimeStamp), within, nil
}
