package jetstream_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/jetstream/jetstreamtest"
)

// TestAnswersStayInTheirJurisdiction: what is asked inside a region is answered on inboxes that never leave it, what is asked
// of another region on those of the question's jurisdiction.
func TestAnswersStayInTheirJurisdiction(t *testing.T) {
	fleet := jetstreamtest.NewFleet(t, map[string][]string{"us-east-1": {"eu"}}, "eu-west-1", "eu-central-1", "us-east-1")
	dial := func(region string) *jetstream.Conn {
		return jetstreamtest.Dial(t, fleet.Regions[region].ClientURL(), func(c *jetstream.Config) { c.Region, c.Inbox = region, "asker" })
	}
	asker, answerer, outside := dial("eu-west-1"), dial("eu-central-1"), dial("us-east-1")
	serve := func(c *jetstream.Conn, subject string) {
		t.Helper()
		_, err := c.NATS().Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte(m.Reply)) })
		if err == nil {
			err = c.Flush(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for subject, want := range map[string]string{
		"berth.v1.rpc.tokens.eu.eu-central-1.show":     "_INBOX_eu.asker.",
		"berth.v1.rpc.tokens.global.eu-central-1.show": "_INBOX_global.asker.",
		"berth.v1.rpc.tokens.eu.eu-west-1.show":        "_INBOX_local.asker.",
		"berth.v1.rpc.tokens.global.us-east-1.show":    "_INBOX_global.asker.",
	} {
		switch {
		case strings.Contains(subject, "eu-west-1"):
			serve(asker, subject)
		case strings.Contains(subject, "us-east-1"):
			serve(outside, subject)
		default:
			serve(answerer, subject)
		}
		jetstreamtest.Eventually(t, 10*time.Second, "an answer on "+subject, func() bool {
			reply, err := asker.Call(t.Context(), subject, nil, nil)
			if err != nil && !errors.Is(err, jetstream.ErrNoResponders) {
				t.Fatal(err)
			}
			if err == nil && !strings.HasPrefix(string(reply.Data), want) {
				t.Fatalf("%s is answered on %s, want %s", subject, reply.Data, want)
			}
			return err == nil
		})
	}
	if answers, err := asker.Gather(short(t), "berth.v1.rpc.tokens.eu.eu-central-1.show", nil); err != nil || len(answers) != 1 || !strings.HasPrefix(string(answers[0]), "_INBOX_eu.asker.") {
		t.Errorf("gathered %q, %v", answers, err)
	}
	if _, err := outside.Call(short(t), "berth.v1.rpc.tokens.eu.eu-central-1.show", nil, nil); !errors.Is(err, jetstream.ErrNoResponders) && !errors.Is(err, jetstream.ErrTimeout) {
		t.Errorf("asked from outside: %v", err)
	}
}

// short ends soon.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
