package sessions_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sessions"
)

var update = flag.Bool("update", false, "write the golden file of testdata anew")

// fullRecord has every field set.
func fullRecord() sessions.Record {
	return sessions.Record{
		Version: 2, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Epoch: events.Epoch{Number: 3, Region: "eu"}, Gen: 8, Hash: "q83vEjRW",
		Parent: at(2, 7), MintedAt: noon, Grace: at(1, 4), Dead: at(2, 6), State: sessions.StateActive, Server: "b", Op: "op-1",
		Answer: sessions.Answer{
			Decision: "move", Reason: "server_down", From: events.Home{Server: "a", Region: "eu", URL: "https://a"},
			Server: "b", Region: "eu", URL: "https://b", AuthURL: "https://b/berth", Fallbacks: []sessions.Fallback{{Region: "us", URL: "https://us"}},
			KID: "eu.1", IssuedAt: noon, AccessExp: noon.Add(2 * time.Minute), RefreshExp: noon.Add(14 * 24 * time.Hour),
		},
		CriticalSince: noon.Add(-time.Minute), MovedAt: noon, Home: "us", Bookmark: "0/16B3748",
		Measured: &sessions.Measured{Told: noon, Regions: []sessions.RegionTime{{Region: "eu", MS: 11.5}, {Region: "us", MS: 80}}},
		Subject:  "alice", ClientID: "web", Org: "acme",
		Scope: "read", Claims: map[string]any{"tenant": "t1"}, Jurisdiction: "global",
		StartedAt: noon.Add(-time.Hour), ExpiresAt: noon.Add(30 * 24 * time.Hour),
		Source: "us", Refused: events.Epoch{Number: 2, Region: "eu"}, Taken: []sessions.Stamp{elsewhere(1, "us", 5)}, Abandoned: at(1, 3),
		Intent: &sessions.Intent{Deadline: noon.Add(sessions.AdoptTimeout), Next: &sessions.Record{Version: 2, Session: "01k9zj4q8r5t6v7w8x9y0z1a2c", Op: "op-1"}},
	}
}

// TestRecordGolden holds what stands in the bucket: a build that reads another's record gets
// all of it.
func TestRecordGolden(t *testing.T) {
	want := fullRecord()
	for i := range reflect.TypeFor[sessions.Record]().NumField() {
		if reflect.ValueOf(want).Field(i).IsZero() {
			t.Errorf("the example has no %s", reflect.TypeFor[sessions.Record]().Field(i).Name)
		}
	}
	const file = "testdata/record.json"
	if *update {
		pretty, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(pretty, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got sessions.Record
	if err := json.Unmarshal(golden, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	again, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, golden); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(compact.String(), string(again)); diff != "" {
		t.Errorf("encoded again (-golden +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	r := fullRecord()
	if got, want := r.Key().String(), "global.01k9zj4q8r5t6v7w8x9y0z1a2c"; got != want {
		t.Errorf("key %s, want %s", got, want)
	}
	if got, want := r.Current().String(), "3.eu/8"; got != want {
		t.Errorf("current %s, want %s", got, want)
	}
	if got, want := r.Answer.Home(), (events.Home{Server: "b", Region: "eu", URL: "https://b"}); got != want {
		t.Errorf("home %v, want %v", got, want)
	}
}
