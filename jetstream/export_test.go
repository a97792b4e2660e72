package jetstream

import "context"

// ScanRest is the end of a Scan from a replica whose last value is of the revision last.
func (b *Bucket) ScanRest(ctx context.Context, filter string, last uint64, fn func(key string, v Value) bool) (at uint64, all bool, err error) {
	s := scan{bucket: b, fn: fn, last: last}
	err = s.rest(ctx, filter)
	return s.last, s.pending == 0, err
}
