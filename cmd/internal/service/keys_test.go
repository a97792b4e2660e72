package service_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthhq/berth/jetstream/jetstreamtest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestRotationUnderLoad rotates a region's key while a hundred clients refresh at the token services
// of two regions: no request fails, every client ends up with the new key, and answers of before
// the change are repeated byte for byte after it.
func TestRotationUnderLoad(t *testing.T) {
	f := newKeyFleet(t)
	var urls []string
	for _, region := range []string{dublin, dublin, singapore, singapore} {
		url, _ := f.serve(region)
		urls = append(urls, url)
	}
	old := f.list(dublin).Signing
	jetstreamtest.Eventually(t, 10*time.Second, "the key to be known in both regions", func() bool {
		return stateOf(f.list(singapore), old) == tokens.KeySigning
	})
	const clients = 100
	var requests, failed atomic.Int64
	var rotated atomic.Bool
	var load sync.WaitGroup
	for i := range clients {
		token := f.start(dublin).RefreshToken // one after another, so that they do not come all at once
		load.Go(func() {
			pace := time.NewTicker(1500 * time.Millisecond)
			defer pace.Stop()
			for k := i; ; k++ {
				status, reply, text := f.refresh(urls[k%len(urls)], token)
				requests.Add(1)
				if status != http.StatusOK {
					failed.Add(1)
					t.Errorf("client %d at %s: status %d: %s", i, urls[k%len(urls)], status, text)
					return
				}
				token = reply.RefreshToken
				// A session may move to the other region, which signs by its own key.
				if rotated.Load() && kidOf(token) != old {
					return
				}
				select {
				case <-pace.C:
				case <-t.Context().Done():
					return
				}
			}
		})
	}
	// What is repeated is young enough for it at the end, also on a slow machine.
	first := f.start(dublin)
	if kidOf(first.RefreshToken) != old {
		t.Fatalf("signed by %s, want %s", kidOf(first.RefreshToken), old)
	}
	var before []string
	replay := func() {
		for i := range 16 {
			status, reply, text := f.refresh(urls[i%len(urls)], first.RefreshToken)
			if status != http.StatusOK {
				t.Errorf("replay: status %d: %s", status, text)
			}
			before = append(before, reply.AccessToken+" "+reply.RefreshToken)
		}
	}
	replay()
	reply := f.must(dublin, tokens.MethodKeysRotate, tokens.RotateRequest{By: "a test"})
	if again := f.must(dublin, tokens.MethodKeysRotate, tokens.RotateRequest{By: "an impatient one"}); again.KID != reply.KID {
		t.Errorf("a second rotation to %s beside one to %s", again.KID, reply.KID)
	}
	if reply.KID == old || stateOf(reply, reply.KID) != tokens.KeyPublished {
		t.Errorf("rotate: %+v", reply)
	}
	f.awaitSigning(dublin, reply.KID)
	rotated.Store(true)
	replay()
	load.Wait()
	t.Logf("%d requests, %d failed", requests.Load(), failed.Load())
	if same := slices.Compact(slices.Clone(before)); len(same) != 1 || kidOf(before[0]) != old {
		t.Errorf("%d different answers to 32 repeats, signed by %s", len(same), kidOf(before[0]))
	}
	after := f.list(dublin)
	if stateOf(after, old) != tokens.KeyRetired || after.Waiting != nil {
		t.Errorf("after the rotation: %+v", after)
	}
	if got := f.list(singapore); stateOf(got, reply.KID) != tokens.KeySigning && stateOf(got, reply.KID) != tokens.KeyPublished {
		t.Errorf("in the other region the new key is %q", stateOf(got, reply.KID))
	}
	// A token of the retired key is redeemed still, in either region.
	second := f.start(singapore)
	if status, _, text := f.refresh(urls[0], second.RefreshToken); status != http.StatusOK {
		t.Errorf("another region's token: status %d: %s", status, text)
	}
}

// TestRotationWaitsForARegion rotates while a region is out of reach, starts over all that can be
// started over, and lets the region come back.
func TestRotationWaitsForARegion(t *testing.T) {
	t.Parallel()
	f := newKeyFleet(t)
	_, stop := f.serve(dublin)
	f.serve(singapore)
	old := f.list(dublin).Signing
	f.nats.Links[singapore].Cut()
	reply := f.must(dublin, tokens.MethodKeysRotate, tokens.RotateRequest{})
	waits := func() bool {
		w := f.list(dublin).Waiting
		return w != nil && w.KID == reply.KID && fmt.Sprint(w.Regions) == "["+singapore+"]"
	}
	jetstreamtest.Eventually(t, 15*time.Second, "the rotation to name the region", waits)
	// Asked for once more, it is the same one.
	if again := f.must(dublin, tokens.MethodKeysRotate, tokens.RotateRequest{}); again.KID != reply.KID {
		t.Errorf("a second rotation to %s while one to %s waits", again.KID, reply.KID)
	}
	stop()
	url, stop := f.serve(dublin)
	jetstreamtest.Eventually(t, 15*time.Second, "the rotation to wait after a restart", waits)
	first := f.start(dublin)
	if kid := kidOf(first.RefreshToken); kid != old {
		t.Errorf("signed by %s, want the old key %s", kid, old)
	}
	f.nats.Links[singapore].Heal()
	f.awaitSigning(dublin, reply.KID)
	status, second, text := f.refresh(url, first.RefreshToken)
	if status != http.StatusOK || kidOf(second.RefreshToken) != reply.KID {
		t.Errorf("after the change: status %d, key %s: %s", status, kidOf(second.RefreshToken), text)
	}
	// The change outlasts a restart, and an answer of before it is repeated within its window.
	stop()
	url, _ = f.serve(dublin)
	if got := f.list(dublin); got.Signing != reply.KID || stateOf(got, old) != tokens.KeyRetired {
		t.Errorf("after a restart: %+v", got)
	}
	if status, again, text := f.refresh(url, first.RefreshToken); status != http.StatusOK || again.RefreshToken != second.RefreshToken {
		t.Errorf("replay after a restart: status %d: %s", status, text)
	}
}

// TestCompromisedKey ends a key and all it signed, in both regions, and goes on with another.
func TestCompromisedKey(t *testing.T) {
	f := newKeyFleet(t)
	home, _ := f.serve(dublin)
	abroad, _ := f.serve(singapore)
	old := f.list(dublin).Signing
	first := f.start(dublin)
	if status, next, text := f.refresh(abroad, first.RefreshToken); status != http.StatusOK {
		t.Fatalf("before: status %d: %s", status, text)
	} else {
		first = next
	}
	reply := f.must(dublin, tokens.MethodKeysRetire, tokens.RetireRequest{By: "a test"})
	if reply.KID != old || stateOf(reply, old) != tokens.KeyRevoked || len(reply.Warnings) > 0 {
		t.Errorf("retire: %+v", reply)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "another key to sign", func() bool { return f.list(dublin).Signing != "" })
	fresh := f.list(dublin).Signing
	if fresh == old {
		t.Fatal("the revoked key signs")
	}
	for _, url := range []string{home, abroad} {
		if status, _, text := f.refresh(url, first.RefreshToken); status != http.StatusUnauthorized || !strings.Contains(text, "retired; log in again") {
			t.Errorf("a token of the revoked key at %s: status %d: %s", url, status, text)
		}
	}
	second := f.start(dublin)
	for _, url := range []string{home, abroad} {
		status, next, text := f.refresh(url, second.RefreshToken)
		if status != http.StatusOK || kidOf(next.RefreshToken) != fresh {
			t.Errorf("a new session at %s: status %d, key %s: %s", url, status, kidOf(next.RefreshToken), text)
		}
		second = next
	}
	// Once more is no fault and changes nothing.
	again := f.must(dublin, tokens.MethodKeysRetire, tokens.RetireRequest{KID: old})
	if again.Signing != fresh {
		t.Errorf("retired again: %+v", again)
	}
	for _, bad := range []struct{ kid, want string }{
		{"eu-west-1.none", "has no key"}, {singapore + ".x", "not of region"},
	} {
		if _, err := f.ask(dublin, tokens.MethodKeysRetire, tokens.RetireRequest{KID: bad.kid}); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("retire %q: %v, want %q", bad.kid, err, bad.want)
		}
	}
}

// TestCompromisedKeyWhileARegionIsAway ends a key while the other region is cut off: that is named,
// and it refuses the key once it is back.
func TestCompromisedKeyWhileARegionIsAway(t *testing.T) {
	f := newKeyFleet(t)
	f.serve(dublin)
	abroad, _ := f.serve(singapore)
	old := f.list(dublin).Signing
	first := f.start(dublin)
	jetstreamtest.Eventually(t, 10*time.Second, "the key to be known abroad", func() bool {
		return stateOf(f.list(singapore), old) == tokens.KeySigning
	})
	f.nats.Links[singapore].Cut()
	reply := f.must(dublin, tokens.MethodKeysRetire, tokens.RetireRequest{KID: old})
	if len(reply.Warnings) != 1 || !strings.Contains(reply.Warnings[0], singapore+" cannot be told yet") {
		t.Errorf("warnings: %q", reply.Warnings)
	}
	jetstreamtest.Eventually(t, 10*time.Second, "another key to sign without the region", func() bool {
		got := f.list(dublin).Signing
		return got != "" && got != old
	})
	if status, _, text := f.refresh(abroad, first.RefreshToken); status != http.StatusServiceUnavailable {
		t.Errorf("while cut off: status %d: %s", status, text)
	}
	f.nats.Links[singapore].Heal()
	jetstreamtest.Eventually(t, 20*time.Second, "the region to refuse the key", func() bool {
		status, _, _ := f.refresh(abroad, first.RefreshToken)
		return status == http.StatusUnauthorized
	})
	jetstreamtest.Eventually(t, 10*time.Second, "the region to be known to know", func() bool {
		for _, k := range f.list(dublin).Keys {
			if k.KID == old {
				return len(k.MissingIn) == 0
			}
		}
		return false
	})
}

// TestServiceWithoutTheNewKey runs two services of a region on copies of the key file: a rotation
// names the one whose copy lacks the key, and goes on once it has it.
func TestServiceWithoutTheNewKey(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newKeyFleet(t)
	copied := filepath.Join(t.TempDir(), "copy.key")
	copyKey(t, f.files[dublin], copied)
	f.serve(dublin)
	f.serve(dublin, copied)
	f.serve(singapore)
	old := f.list(dublin).Signing
	reply := f.must(dublin, tokens.MethodKeysRotate, tokens.RotateRequest{})
	var lacks string
	jetstreamtest.Eventually(t, 15*time.Second, "the rotation to name the service", func() bool {
		w := f.list(dublin).Waiting
		if w == nil || len(w.Services) != 1 || len(w.Regions) > 0 {
			return false
		}
		lacks = w.Services[0]
		return true
	})
	if got := f.list(dublin); got.Signing != old {
		t.Errorf("%s signs while a service lacks it", got.Signing)
	}
	from, to := f.files[dublin], copied
	if strings.Contains(lacks, f.files[dublin]) {
		from, to = copied, f.files[dublin]
	}
	copyKey(t, from, to)
	f.awaitSigning(dublin, reply.KID)
}

// TestTokensVerifyAcrossRegions has one region verify what another minted, by the key set that its
// own token service publishes, with clocks that differ by up to the skew that is allowed for, and
// more.
func TestTokensVerifyAcrossRegions(t *testing.T) {
	f := newKeyFleet(t)
	f.serve(dublin)
	abroad, _ := f.serve(singapore)
	minted := f.start(dublin)
	var set *api.KeySet
	jetstreamtest.Eventually(t, 10*time.Second, "the key abroad", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, abroad+"/.well-known/jwks.json", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := f.http.Do(req)
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		var text bytes.Buffer
		if _, err := text.ReadFrom(resp.Body); err != nil {
			return false
		}
		set, err = api.ParseKeySet(text.Bytes())
		if err != nil {
			return false
		}
		_, known := set.Key(kidOf(minted.AccessToken))
		return known
	})
	const issuer = "https://api.example.com"
	v := api.Verifier{Key: set.Key, Issuer: issuer, Audience: issuer}
	claims, err := v.Access(minted.AccessToken, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issued, expires := time.Unix(claims.IssuedAt, 0), claims.Expiry()
	for _, test := range []struct {
		name string
		now  time.Time
		want api.Code
	}{
		{"a clock 60 s behind", issued.Add(-api.Skew), ""},
		{"a clock 61 s behind", issued.Add(-api.Skew - time.Second), api.CodeInvalidToken},
		{"59 s past the end", expires.Add(api.Skew - time.Second), ""},
		{"61 s past the end", expires.Add(api.Skew + time.Second), api.CodeTokenExpired},
	} {
		_, err := v.Access(minted.AccessToken, test.now)
		var refusal *api.Error
		if test.want == "" && err != nil || test.want != "" && (!errors.As(err, &refusal) || refusal.Code != test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// TestLostKeyFile starts a region's token service with a new key file, for the old one is lost, while
// the other region is out of reach: it serves nobody, and says why, until an operator has it rotate.
func TestLostKeyFile(t *testing.T) {
	t.Parallel() // it mostly waits
	f := newKeyFleet(t)
	_, stop := f.serve(dublin)
	old := f.list(dublin).Signing
	first := f.start(dublin)
	stop()
	f.nats.Links[singapore].Cut()
	lost := filepath.Join(t.TempDir(), "lost.key")
	if err := tokens.GenerateKey(lost); err != nil {
		t.Fatal(err)
	}
	f.files[dublin] = lost
	served := make(chan string, 1)
	go func() {
		url, _ := f.serve(dublin)
		served <- url
	}()
	var spare string
	jetstreamtest.Eventually(t, 10*time.Second, "the new key to be published", func() bool {
		reply, err := f.ask(dublin, tokens.MethodKeysList, nil)
		if err != nil {
			return false
		}
		for _, k := range reply.Keys {
			if k.State == tokens.KeyPublished {
				spare = k.KID
			}
		}
		return spare != "" && reply.Signing == old
	})
	jetstreamtest.Eventually(t, 10*time.Second, "the rotation to be noted", func() bool {
		_, err := f.ask(dublin, tokens.MethodKeysRotate, tokens.RotateRequest{To: spare})
		return err == nil
	})
	url := <-served
	if status, next, text := f.refresh(url, first.RefreshToken); status != http.StatusOK || kidOf(next.RefreshToken) != spare {
		t.Errorf("a session of the lost key: status %d: %s", status, text)
	}
}
