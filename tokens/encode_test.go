package tokens_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events/wire/wiretest"
	"github.com/berthhq/berth/tokens"
	"github.com/berthhq/berth/tokens/api"
)

// TestEncodeReply: a reply is written as encoding/json writes it, with every field that it has.
func TestEncodeReply(t *testing.T) { wiretest.Same(t, tokens.EncodeReply) }

// FuzzDecodeRefresh: what is scanned is what encoding/json reads.
func FuzzDecodeRefresh(f *testing.F) {
	for _, s := range []string{
		`{"refreshToken":"a.b.c","closestServerId":"eu-west-1-a","criticalTaskInProgress":false}`,
		`{"refreshToken":"x","failedServerId":"a","bookmark":"0/16B3748","criticalTaskInProgress":true}`,
		`{"refreshToken":"x","refreshToken":"y"}`, `{"RefreshToken":"x"}`, `{"refreshToken":null}`, `{"refreshToken":"\u0061"}`,
		`{"refreshToken":"x","rttMs":{"a":1.5,"a":2},"colour":[{}]}`, `{"rttMs":{}}`, `{"rttMs":{"a":null}}`, ` { } `, `{`, `[]`, ``, `{"refreshToken":"x"}}`, `{"criticalTaskInProgress":null}`, `{"bookmark":"ÿ"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want api.RefreshRequest
		wrong := json.Unmarshal(data, &want)
		got, scanned, err := tokens.DecodeRefresh(data)
		if (err != nil) != (wrong != nil) || err != nil && scanned {
			t.Fatalf("%s: scanned %t, %v; want %v", data, scanned, err, wrong)
		}
		if diff := cmp.Diff(want, got); err == nil && diff != "" {
			t.Errorf("%s: scanned %t (-want +got):\n%s", data, scanned, diff)
		}
	})
}

// TestPlainRefreshIsScanned: what clients send needs no reflection.
func TestPlainRefreshIsScanned(t *testing.T) {
	data, err := json.Marshal(api.RefreshRequest{RefreshToken: "a.b-c_d", ClosestServerID: "a", CriticalTaskInProgress: true, FailedServerID: "b", Bookmark: "0/1", RTTMs: map[string]float64{"a": 1.5, "b": 20}})
	if err != nil {
		t.Fatal(err)
	}
	if _, scanned, err := tokens.DecodeRefresh(data); !scanned || err != nil {
		t.Errorf("%s: scanned %t, %v", data, scanned, err)
	}
}
