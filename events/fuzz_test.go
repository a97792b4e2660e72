package events_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthhq/berth/events"
)

// FuzzDecode: nothing that arrives stops a reader; a refusal is one of the two faults; and what
// decodes is a message that this build can send on unchanged.
func FuzzDecode(f *testing.F) {
	for _, e := range examples() {
		data, err := events.Encode(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.Subject().String(), data)
	}
	f.Add("berth.v1.view.eu", []byte(`{"version":1,"region":"eu","seq":1,"at":"2026-01-01T00:00:00+23:59","part":1,"of":1,"servers":null}`))
	f.Add("berth.v1.revoked.eu", []byte("{\"VERSION\":1,\"region\":\"eu\",\"at\":\"0000-01-01T00:00:00Z\",\"sessions\":null,\"x\":\"\xff\"}"))
	f.Add("berth.v1.rpc.a.b.c.d", []byte(`{}`))
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		e, err := events.Decode(subject, data)
		if err != nil {
			if !errors.Is(err, events.ErrMalformed) && !errors.Is(err, events.ErrUnknown) {
				t.Fatalf("%v is neither fault", err)
			}
			return
		}
		if got := e.Subject().String(); got != subject {
			t.Fatalf("the payload names %s, it came on %s", got, subject)
		}
		encoded, err := events.Encode(e)
		if err != nil {
			// A byte may take six when it is written again (\u003c), so a message near the
			// bound may outgrow it.
			if len(data) > events.MaxHeartbeat/6 {
				return
			}
			t.Fatal(err)
		}
		again, err := events.Decode(subject, encoded)
		if err != nil {
			t.Fatalf("%v of what was encoded: %s", err, encoded)
		}
		if diff := cmp.Diff(e, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("decoded again (-first +second):\n%s", diff)
		}
	})
}
