package main

import (
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
)

// TestSessionIsExplained: who looks at a session sees where it would rather be, and by which times.
func TestSessionIsExplained(t *testing.T) {
	var out strings.Builder
	now := time.Now()
	r := tokens.SessionReply{Home: "eu-west-1", Measured: &sessions.Measured{
		Told: now.Add(-3 * time.Minute), Regions: []sessions.RegionTime{{Region: "eu-west-1", MS: 12.5}, {Region: "us-east-1", MS: 81}},
	}}
	if err := new(sessionsShowCmd).print(&program{stdout: &out}, []tokens.SessionReply{r, {}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nhome            eu-west-1\nmeasured        eu-west-1 12.5 ms, us-east-1 81 ms, 3m0s ago\n", "\nhome            -\nmeasured        -\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}
