package sessions

import "context"

// Copy is another region's record of a session as it was last copied here.
type Copy struct {
	// Region is the one whose record it is.
	Region string
	Record Record
}

// Copies reads what other regions' records of a session were when they were last copied here.
//
// It returns the newest copy of each region that has one, never an older one than it, or
// another reader in the region, has returned before. Its error says that copies may be missing.
// It is safe for concurrent use and ends with ctx.
type Copies interface {
	Copies(ctx context.Context, key Key) ([]Copy, error)
}
