package tokens_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthhq/berth/sessions"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestKeyLife follows a key from its publication until nothing it signed is good any more.
func TestKeyLife(t *testing.T) {
	t0 := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	const a, b = "eu-west-1.a", "eu-west-1.b"
	line := tokens.KeyLine{
		a: {Published: t0, Signs: t0},
		b: {Published: t0.Add(time.Hour), Wanted: t0.Add(time.Hour), Signs: t0.Add(2 * time.Hour)},
	}
	change := t0.Add(2 * time.Hour)
	tests := []struct {
		name             string
		now              time.Time
		a, b             tokens.KeyState
		signing          string
		mayA, aVerifies  bool
		revokeA, revokeB bool
	}{
		{"before the change", change.Add(-time.Millisecond), tokens.KeySigning, tokens.KeyPublished, a, true, true, false, false},
		{"at the change", change, tokens.KeyRetired, tokens.KeySigning, b, true, true, false, false},
		{"within the window of replays", change.Add(sessions.Window + 9*time.Second), tokens.KeyRetired, tokens.KeySigning, b, true, true, false, false},
		{"past it", change.Add(sessions.Window + 10*time.Second), tokens.KeyRetired, tokens.KeySigning, b, false, true, false, false},
		{"its last token's last day", change.Add(tokens.MaxRefreshTTL), tokens.KeyRetired, tokens.KeySigning, b, false, true, false, false},
		{"gone", change.Add(tokens.VerifyLife), tokens.KeyGone, tokens.KeySigning, b, false, false, false, false},
		{"the old one revoked", change, tokens.KeyRevoked, tokens.KeySigning, b, false, false, true, false},
		{"the new one revoked: the old one does not sign again", change, tokens.KeyRetired, tokens.KeyRevoked, "", true, true, false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := tokens.KeyLine{a: line[a], b: line[b]}
			for kid, revoke := range map[string]bool{a: test.revokeA, b: test.revokeB} {
				if life := l[kid]; revoke {
					life.Revoked = test.now
					l[kid] = life
				}
			}
			if gotA, gotB := l.State(a, test.now), l.State(b, test.now); gotA != test.a || gotB != test.b {
				t.Errorf("states %s, %s; want %s, %s", gotA, gotB, test.a, test.b)
			}
			if got := l.Signing(test.now); got != test.signing {
				t.Errorf("%q signs, want %q", got, test.signing)
			}
			if got := l.MaySign(a, test.now); got != test.mayA {
				t.Errorf("the old key may sign: %t", got)
			}
			if got := l.Verifies(a, test.now); got != test.aVerifies {
				t.Errorf("the old key verifies: %t", got)
			}
		})
	}
}

// TestPendingKey: of two wishes the earlier counts, and one of before the last change is done with.
func TestPendingKey(t *testing.T) {
	t0 := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	line := tokens.KeyLine{
		"r.old":       {Published: t0, Signs: at(10)},
		"r.overtaken": {Published: at(5), Wanted: at(5)},
		"r.spare":     {Published: at(5)},
		"r.late":      {Published: at(12), Wanted: at(12)},
		"r.next":      {Published: at(11), Wanted: at(11)},
		"r.lost":      {Published: at(10), Wanted: at(10), Revoked: at(11)},
	}
	if got := line.Pending(at(20)); got != "r.next" {
		t.Errorf("pending %q, want r.next", got)
	}
	if got := (tokens.KeyLine{"r.old": line["r.old"], "r.spare": line["r.spare"]}).Pending(at(20)); got != "" {
		t.Errorf("pending %q, want none", got)
	}
}

// TestKeyLineHolds tries what has to hold whatever happened to a region's keys: at most one signs;
// what signs verifies, and so does what it signed until that has expired; a key that was followed
// never signs again; and reports of what happened may come in any order, more than once.
func TestKeyLineHolds(t *testing.T) {
	t0 := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	kids := []string{"r.a", "r.b", "r.c", "r.d"}
	rapid.Check(t, func(rt *rapid.T) {
		moment := rapid.Map(rapid.IntRange(-1, 100), func(days int) time.Time {
			if days < 0 {
				return time.Time{}
			}
			return t0.AddDate(0, 0, days)
		})
		line := tokens.KeyLine{}
		for _, kid := range kids {
			line[kid] = api.KeyLife{Published: t0, Signs: moment.Draw(rt, "signs"), Revoked: moment.Draw(rt, "revoked"), Wanted: moment.Draw(rt, "wanted")}
		}
		now := t0.AddDate(0, 0, rapid.IntRange(0, 150).Draw(rt, "now"))
		signing := 0
		for _, kid := range kids {
			state := line.State(kid, now)
			if state == tokens.KeySigning {
				signing++
				if line.Signing(now) != kid || !line.MaySign(kid, now) || !line.Verifies(kid, now) {
					rt.Errorf("%s is signing, but %q signs", kid, line.Signing(now))
				}
				for earlier := t0; earlier.Before(now); earlier = earlier.AddDate(0, 0, 1) {
					if line.State(kid, earlier) == tokens.KeyRetired {
						rt.Errorf("%s was retired at %s and signs at %s", kid, earlier, now)
					}
				}
			}
			if until := line.SignsUntil(kid); line[kid].Revoked.IsZero() && !until.IsZero() && now.Before(until.Add(tokens.MaxRefreshTTL)) && !line.Verifies(kid, now) {
				rt.Errorf("%s does not verify what it signed until %s", kid, until)
			}
		}
		if signing > 1 || signing == 0 && line.Signing(now) != "" {
			rt.Errorf("%d keys sign", signing)
		}

		reports := []api.KeyLife{}
		for range rapid.IntRange(1, 5).Draw(rt, "reports") {
			reports = append(reports, api.KeyLife{Signs: moment.Draw(rt, "signs"), Revoked: moment.Draw(rt, "revoked")})
		}
		fold := func(list []api.KeyLife) (life api.KeyLife) {
			for _, r := range list {
				life = life.Merge(r)
			}
			return life
		}
		shuffled := append(rapid.Permutation(reports).Draw(rt, "order"), reports...)
		if one, two := fold(reports), fold(shuffled); !one.Equal(two) {
			rt.Errorf("%+v in one order, %+v in another", one, two)
		}
		if life := fold(reports); slices.ContainsFunc(reports, func(r api.KeyLife) bool { return !r.Revoked.IsZero() }) && life.Revoked.IsZero() {
			rt.Error("a revocation was lost")
		}
	})
}
