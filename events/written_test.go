package events_test

import (
	"testing"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/events/wire/wiretest"
)

// TestWritten: what is written by hand is what encoding/json writes.
func TestWritten(t *testing.T) {
	t.Run("session", func(t *testing.T) {
		wiretest.Same(t, func(s *events.Session) ([]byte, error) { return events.Marshal(s) })
	})
	t.Run("decision", func(t *testing.T) {
		wiretest.Same(t, func(d *events.Decision) ([]byte, error) { return events.Marshal(d) })
	})
}
