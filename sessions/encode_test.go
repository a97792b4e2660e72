package sessions_test

import (
	"testing"

	"github.com/berthhq/berth/events/wire/wiretest"
	"github.com/berthhq/berth/sessions"
)

// TestEncode: a record is written as encoding/json writes it, with every field that it has.
func TestEncode(t *testing.T) {
	wiretest.Same(t, (*sessions.Record).Encode)
}
