package sessions_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events/wire/wiretest"
	"github.com/berthhq/berth/sessions"
)

// TestAppend: a record is written as encoding/json writes it, with every field that it has.
func TestAppend(t *testing.T) {
	wiretest.Same(t, func(r *sessions.Record) ([]byte, error) { return r.Append(nil) })
}

// FuzzDecodeRecord: a record is read as encoding/json reads it.
func FuzzDecodeRecord(f *testing.F) {
	golden, err := os.ReadFile("testdata/record.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	for _, s := range []string{
		`{}`, `{"version":2,"future":1}`, `{"session":"a","session":"b"}`, `{"Session":"a"}`, `{"answer":{"fallbacks":[]}}`, `{"answer":{"fallbacks":null}}`,
		`{"claims":null}`, `{"claims":{"a":"\u0061","b":[1,{"c":null}]}}`, `{"claims":[]}`, `{"claims":{"a":1}`, `{"subject":"ž\n"}`, `{"parent":{"epoch":{"number":1e2}}}`, `{"gen":-1}`, `[]`, ``,
		`{"answer":{"fallbacks":[{"region":"a","url":"b"},{}]},"minted_at":"2026-11-21T12:00:00.5+02:00"}`, `{"answer":{"fallbacks":[{},]}}`,
		`{"source":"eu","refused":{"number":2,"region":"us"},"taken":[{"epoch":{"number":1,"region":"us"},"gen":5},{}]}`, `{"taken":[]}`, `{"taken":null,"refused":null}`,
		`{"state":"moving","intent":{"deadline":"2026-11-21T12:00:00Z","next":{"session":"a","intent":{"next":null}}}}`, `{"intent":null}`, `{"intent":{"deadline":"2026-11-21T12:00:00Z","next":{"session":"a","taken":[{}]}}}`, `{"intent":{"next":null}}`, `{"intent":{}}`, `{"intent":{},"intent":{}}`,
		`{"taken":[],"taken":[]}`,
		`{"answer":{"fallbacks":[{}{}]}}`,
		`{"measured":{"told":"2026-11-21T12:00:00Z","regions":[{"region":"eu","ms":11.5},{}]}}`, `{"measured":null}`, `{"measured":{"regions":null,"told":null}}`, `{"measured":{},"measured":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want sessions.Record
		wrong := json.Unmarshal(data, &want)
		got, err := sessions.DecodeRecord(data)
		if (err != nil) != (wrong != nil) {
			t.Fatalf("%s: %v; want %v", data, err, wrong)
		}
		if err != nil {
			return
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", data, diff)
		}
	})
}

// BenchmarkRecord writes and reads what every refresh does.
func BenchmarkRecord(b *testing.B) {
	r := fullRecord()
	data, err := r.Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if data, err = r.Append(data[:0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := sessions.DecodeRecord(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(data, new(sessions.Record)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
