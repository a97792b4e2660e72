package api_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/tokens/api"
)

func TestKeySetRoundTrip(t *testing.T) {
	want := api.NewKeySet(map[string]ed25519.PublicKey{"b.1": public(key(2)), "a.2": public(key(1))})
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.ParseKeySet(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.2", "b.1"}, got.IDs()); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	for _, id := range want.IDs() {
		wanted, _ := want.Key(id)
		if found, ok := got.Key(id); !ok || !found.Equal(wanted) {
			t.Errorf("key %s is %x, want %x", id, found, wanted)
		}
	}
	if _, ok := got.Key("c"); ok {
		t.Error("a key that nobody wrote")
	}
	again, err := json.Marshal(got)
	if err != nil || string(again) != string(data) {
		t.Errorf("written again as %s, %v; first %s", again, err, data)
	}
}

// TestKeySetGolden: the document is RFC 7517 and 8037, in the order of the ids.
func TestKeySetGolden(t *testing.T) {
	data, err := json.Marshal(api.NewKeySet(map[string]ed25519.PublicKey{"b": public(key(2)), "a": public(key(1))}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"keys":[` +
		`{"use":"sig","kty":"OKP","kid":"a","crv":"Ed25519","alg":"EdDSA","x":"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w"},` +
		`{"use":"sig","kty":"OKP","kid":"b","crv":"Ed25519","alg":"EdDSA","x":"gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q"}]}`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if data, err = json.Marshal(api.NewKeySet(nil)); err != nil || string(data) != `{"keys":[]}` {
		t.Errorf("the empty set is %s, %v", data, err)
	}
}

// TestKeySetOfGoJose reads a document that another writer made, with keys that are not ours.
func TestKeySetOfGoJose(t *testing.T) {
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: elliptical.Public(), KeyID: "ec", Algorithm: "ES256", Use: "sig"},
		{Key: public(key(1)), KeyID: kid, Algorithm: "EdDSA", Use: "sig"},
		{Key: public(key(2))},
		{Key: key(3), KeyID: "private"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.ParseKeySet(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{kid}, got.IDs()); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	v := &api.Verifier{Key: got.Key, Issuer: issuer, Audience: audience}
	if _, err := v.Access(access(t), now); err != nil {
		t.Errorf("a good token: %v", err)
	}
}

// TestKeySetLeavesOut: a key of a kind that this build does not know hides no other (RFC
// 7517 section 5).
func TestKeySetLeavesOut(t *testing.T) {
	const good = `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w"}`
	for name, other := range map[string]string{
		"unknown kind": `{"kty":"AKP","kid":"pq","alg":"ML-DSA-44","pub":"AAAA"}`,
		"other curve":  `{"kty":"OKP","crv":"X25519","kid":"x","x":"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w"}`,
		"short":        `{"kty":"OKP","crv":"Ed25519","kid":"s","x":"iojj"}`,
		"low order":    `{"kty":"OKP","crv":"Ed25519","kid":"w","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`,
		"symmetric":    `{"kty":"oct","kid":"o","k":"c2VjcmV0"}`,
		"none":         `{}`,
	} {
		got, err := api.ParseKeySet([]byte(`{"keys":[` + other + `,` + good + `]}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([]string{"a"}, got.IDs()); diff != "" {
			t.Errorf("%s: ids (-want +got):\n%s", name, diff)
		}
	}
	for _, wrong := range []string{``, `[]`, `{"keys":{}}`, `"keys"`} {
		if got, err := api.ParseKeySet([]byte(wrong)); err == nil {
			t.Errorf("%q is taken for a key set of %v", wrong, got.IDs())
		}
	}
}

// TestKeySetTellsWhatHappened writes and reads what happened to keys; who does not know of it reads
// the keys alone.
func TestKeySetTellsWhatHappened(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	signs, over := api.KeyLife{Published: at, Wanted: at, Signs: at.Add(time.Minute)}, api.KeyLife{Signs: at, Revoked: at.Add(time.Hour)}
	data, err := api.NewKeySetOf(map[string]ed25519.PublicKey{"a": public(key(1))}, map[string]api.KeyLife{"a": signs, "b": over}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	const want = `"berth":{"a":{"published_at":"2026-11-21T12:00:00Z","wanted_at":"2026-11-21T12:00:00Z","signs_at":"2026-11-21T12:01:00Z"},` +
		`"b":{"signs_at":"2026-11-21T12:00:00Z","revoked_at":"2026-11-21T13:00:00Z"}}}`
	if !strings.HasSuffix(string(data), want) {
		t.Errorf("got %s, want it to end in %s", data, want)
	}
	got, err := api.ParseKeySet(data)
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := got.Life("a"); !ok || !a.Equal(signs) || got.Retired("a") {
		t.Errorf("a: %+v, retired: %t", a, got.Retired("a"))
	}
	if b, ok := got.Life("b"); !ok || !b.Equal(over) || !got.Retired("b") {
		t.Errorf("b: %+v, retired: %t", b, got.Retired("b"))
	}
	if got.Retired("c") {
		t.Error("an unknown key is retired")
	}
	if diff := cmp.Diff([]string{"a", "b"}, got.Lives()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var other jose.JSONWebKeySet
	if err := json.Unmarshal(data, &other); err != nil || len(other.Keys) != 1 {
		t.Errorf("another reader: %d keys, %v", len(other.Keys), err)
	}
	bad, err := api.ParseKeySet([]byte(`{"keys":[],"berth":{"x":{"signs_at":"soon"},"y":7,"z":{}}}`))
	if err != nil || len(bad.Lives()) != 1 {
		t.Errorf("of garbage %v remains: %v", bad.Lives(), err)
	}
}
