package api_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthhq/berth/tokens/api"
)

func TestAudience(t *testing.T) {
	tests := []struct {
		json string
		want api.Audience
		back string
	}{
		{`"api"`, api.Audience{"api"}, `"api"`},
		{`["api"]`, api.Audience{"api"}, `"api"`},
		{`["api","berth"]`, api.Audience{"api", "berth"}, `["api","berth"]`},
		{`[]`, api.Audience{}, `[]`},
	}
	for _, test := range tests {
		var got api.Audience
		if err := json.Unmarshal([]byte(test.json), &got); err != nil {
			t.Errorf("%s: %v", test.json, err)
			continue
		}
		back, err := json.Marshal(got)
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil || string(back) != test.back {
			t.Errorf("%s is written again as %s, %v; (-want +got):\n%s", test.json, back, err, diff)
		}
	}
	for _, wrong := range []string{`1`, `{}`, `[1]`, `["a",null,{}]`, `true`} {
		var got api.Audience
		if err := json.Unmarshal([]byte(wrong), &got); err == nil {
			t.Errorf("%s is taken for %q", wrong, got)
		}
	}
	var none api.Audience
	if err := json.Unmarshal([]byte(`null`), &none); err != nil || len(none) != 0 {
		t.Errorf("null is taken for %q, %v", none, err)
	}
}

// TestOwnClaims: the application's claims stand beside berth's, come back, and never touch
// one of berth's, in whatever letters they are written.
func TestOwnClaims(t *testing.T) {
	names := rapid.OneOf(
		rapid.SampledFrom([]string{
			"tenant", "roles", "iss", "sub", "SUB", "Sid", "ſub", "server_id", "Server_ID", "loc\u212a_epoch", "exp", "nbf", "own", "", "Own", "cnf", "Aud",
		}),
		rapid.StringMatching(`[a-z_]{1,8}`), rapid.String(),
	)
	values := rapid.OneOf(
		rapid.Custom(func(t *rapid.T) any { return rapid.StringMatching(`[ -~é]{0,9}`).Draw(t, "text") }),
		rapid.Custom(func(t *rapid.T) any { return rapid.Float64Range(-1e9, 1e9).Draw(t, "number") }),
		rapid.Custom(func(t *rapid.T) any { return rapid.Bool().Draw(t, "truth") }),
		rapid.Just[any]([]any{"a", nil, map[string]any{"sub": 1.0}}),
		rapid.Just[any](nil),
	)
	rapid.Check(t, func(t *rapid.T) {
		want := accessClaims()
		want.Own = rapid.MapOfN(names, values, 0, 5).Draw(t, "own")
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got api.AccessClaims
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		var own map[string]any
		for name, value := range want.Own {
			if !api.Reserved(name) {
				if own == nil {
					own = map[string]any{}
				}
				own[name] = value
			}
		}
		want.Own = own
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", data, diff)
		}
	})
}

func TestReserved(t *testing.T) {
	for _, name := range []string{"iss", "aud", "server_id", "lock_region", "nbf", "cnf", "gen", "own", "Sub", "SERVER_URL", "ſid", "loc\u212a_epoch"} {
		if !api.Reserved(name) {
			t.Errorf("an application may set %s", name)
		}
	}
	for _, name := range []string{"tenant", "subject", "roles", "server", "", "Issuer"} {
		if api.Reserved(name) {
			t.Errorf("an application may not set %s", name)
		}
	}
	// Every claim that berth writes is reserved.
	for _, claims := range []any{accessClaims(), refreshClaims()} {
		data, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		var all map[string]any
		if err := json.Unmarshal(data, &all); err != nil {
			t.Fatal(err)
		}
		for name := range all {
			if name != "tenant" && name != "admin" && !api.Reserved(name) {
				t.Errorf("an application may set %s", name)
			}
		}
	}
}

// TestNoOwnClaims: the map of one token does not leak into the next.
func TestNoOwnClaims(t *testing.T) {
	c := accessClaims()
	plain := accessClaims()
	plain.Own = nil
	data, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, c); err != nil || c.Own != nil {
		t.Errorf("own claims %v, %v", c.Own, err)
	}
	for _, wrong := range []string{`[]`, `"x"`, `{"exp":"soon"}`, `{"exp":1.5}`, `{"lock_epoch":-1}`, `{"fallbacks":{}}`} {
		if err := json.Unmarshal([]byte(wrong), new(api.AccessClaims)); err == nil {
			t.Errorf("%s is taken for claims", wrong)
		}
	}
}
