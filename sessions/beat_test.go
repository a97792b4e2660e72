package sessions_test

import (
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

// TestBeatIsNoSession: a beat's key is one that a bucket takes, and that no session can have.
func TestBeatIsNoSession(t *testing.T) {
	k := sessions.BeatKey(events.GlobalJurisdiction)
	if !k.IsBeat() || k.String() != "global._beat.time" {
		t.Errorf("the key of a beat is %s", k)
	}
	for token := range strings.SplitSeq(k.String(), ".") {
		if !events.ValidToken(token) {
			t.Errorf("the key of a beat is %s, of which %q is no token", k, token)
		}
	}
	if _, err := ulid.Parse(k.Session); err == nil {
		t.Errorf("%s is an id that a session could have", k.Session)
	}
	if (sessions.Key{Jurisdiction: "global", Session: strings.ToLower(ulid.Make().String())}).IsBeat() {
		t.Error("a session counts as a beat")
	}
}
