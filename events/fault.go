package events

import "errors"

// Faults of a message by what is wrong with it: what readers count by and tell operators of.
const (
	// FaultForged says that the payload claims to be of another sender than its subject.
	FaultForged = "forged"
	// FaultTooLarge says that the payload is larger than its kind may be.
	FaultTooLarge = "too_large"
	// FaultLoad, FaultLocation and FaultURL name the field that is out of range.
	FaultLoad     = "bad_load"
	FaultLocation = "bad_location"
	FaultURL      = "bad_url"
	// FaultMalformed is anything else that makes a message ErrMalformed.
	FaultMalformed = "malformed"
	// FaultUnknown is what makes it ErrUnknown.
	FaultUnknown = "unknown"
)

// FaultOf returns which of the faults an error of Decode is.
func FaultOf(err error) string {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.kind
	}
	if errors.Is(err, ErrMalformed) {
		return FaultMalformed
	}
	return FaultUnknown
}

// fault is ErrMalformed in a way that has a name.
type fault struct {
	kind string
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func faulty(kind, format string, args ...any) error {
	return &fault{kind: kind, err: malformed(format, args...)}
}
