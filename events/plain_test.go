package events_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthhq/berth/events"
)

const beatSubject = "berth.v1.heartbeat.eu-west-1.eu-west-1-a"

// read returns an example of testdata.
func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// plainHeartbeat returns a heartbeat with every field, as it is sent.
func plainHeartbeat(t testing.TB) (subject string, data []byte) {
	t.Helper()
	h := new(events.Heartbeat)
	if err := json.Unmarshal(read(t, "heartbeat.json"), h); err != nil {
		t.Fatal(err)
	}
	data, err := events.Encode(h)
	if err != nil {
		t.Fatal(err)
	}
	return h.Subject().String(), data
}

// checkScan compares what is scanned with what is decoded, whatever came before.
func checkScan(t *testing.T, subject string, data []byte, like *events.Heartbeat) (scanned bool) {
	t.Helper()
	want, err := events.Decode(subject, data)
	got := events.Heartbeat{Server: "left over", Replication: map[string]string{"left": "over"}}
	if !events.ScanHeartbeat(subject, data, &got, like) {
		return false
	}
	if err != nil {
		t.Fatalf("scanned as %+v, but Decode says: %v", got, err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Fatalf("scanned after %+v (-decoded +scanned):\n%s", like, diff)
	}
	if math.Signbit(want.(*events.Heartbeat).Location.Lat) != math.Signbit(got.Location.Lat) {
		t.Fatal("the sign of a zero is lost")
	}
	return true
}

// FuzzScanHeartbeat: what is scanned is what encoding/json decodes, and nothing is scanned that
// Decode refuses.
func FuzzScanHeartbeat(f *testing.F) {
	subject, plain := plainHeartbeat(f)
	f.Add(subject, plain, plain)
	f.Add(subject, read(f, "heartbeat.json"), plain)
	f.Add(subject, read(f, "heartbeat_sparse.json"), plain)
	for _, c := range oddHeartbeats {
		f.Add(subject, []byte(c.change.Replace(string(plain))), plain)
	}
	f.Fuzz(func(t *testing.T, subject string, data, before []byte) {
		var like *events.Heartbeat
		if e, err := events.Decode(subject, before); err == nil {
			like, _ = e.(*events.Heartbeat)
		}
		checkScan(t, subject, data, like)
		checkScan(t, subject, data, nil)
	})
}

// FuzzDecodeServer: a value of the bucket is what encoding/json makes of it.
func FuzzDecodeServer(f *testing.F) {
	var u events.ViewUpdate
	if err := json.Unmarshal(read(f, "view.json"), &u); err != nil {
		f.Fatal(err)
	}
	for i := range u.Servers {
		data, err := json.Marshal(&u.Servers[i])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, data)
		f.Add([]byte(strings.Replace(string(data), `"seq":`, `"SEQ":9,"weight":2,"seq":`, 1)), data)
	}
	f.Fuzz(func(t *testing.T, data, before []byte) {
		var want, like events.Server
		err := json.Unmarshal(data, &want)
		if json.Unmarshal(before, &like) != nil {
			like = events.Server{}
		}
		got, gotErr := events.DecodeServer(data, &like)
		if (err == nil) != (gotErr == nil) {
			t.Fatalf("encoding/json says %v, DecodeServer %v", err, gotErr)
		}
		if err != nil {
			return
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Fatalf("decoded (-encoding/json +DecodeServer):\n%s", diff)
		}
	})
}

// oddHeartbeats are changes of a plain heartbeat that encoding/json takes in its own way, or
// that Decode refuses; quick says that they are scanned all the same.
var oddHeartbeats = []struct {
	name   string
	change *strings.Replacer
	quick  bool
}{
	{"plain", strings.NewReplacer(), true},
	{"white space", strings.NewReplacer(`,"`, " ,\n\t\"", `":`, "\" :\r "), true},
	{"unknown fields", strings.NewReplacer(`"seq":`, `"x":{"a":[1,-2.5,true,null,{"b":"c"}],"d":{}},"e-f.g":[],"seq":`), true},
	{"numbers", strings.NewReplacer(`"cpu":`, `"cpu":0.1234567890123456789,"x":`), true},
	{"long positions", strings.NewReplacer(`"replication":{`, `"replication":{"a":"0/16B3748","b":"",`), true},
	{"no member", strings.NewReplacer(`"member":`, `"x":`), true},
	{"no load", strings.NewReplacer(`"load":`, `"x":`, `"location":`, `"y":`, `"replication":`, `"z":`), true},
	{"offset", strings.NewReplacer(`Z"`, `+01:00"`), true},
	{"no fraction", strings.NewReplacer(`"lat":`, `"lat":-0,"x":`), true},
	{"other case", strings.NewReplacer(`"seq":`, `"SEQ":9,"seq":`), false},
	{"a long s", strings.NewReplacer(`"seq":`, `"ſeq":9,"x":`), false},
	{"twice", strings.NewReplacer(`"seq":`, `"seq":9,"seq":`), false},
	{"load twice", strings.NewReplacer(`"load":`, `"load":{"cpu":3},"load":`), false},
	{"cpu twice", strings.NewReplacer(`"cpu":`, `"cpu":3,"cpu":`), false},
	{"a position twice", strings.NewReplacer(`"replication":{`, `"replication":{"a":"1","a":"2",`), false},
	{"null", strings.NewReplacer(`"member":`, `"member":null,"x":`), false},
	{"null load", strings.NewReplacer(`"load":`, `"load":null,"x":`), false},
	{"empty replication", strings.NewReplacer(`"replication":`, `"replication":{},"x":`), true},
	{"escape", strings.NewReplacer(`"member":"`, `"member":"\u0061`), false},
	{"invalid UTF-8", strings.NewReplacer(`"member":"`, "\"member\":\"\xff"), false},
	{"control character further on", strings.NewReplacer(`"member":"`, "\"member\":\"m123456789\t"), false},
	{"a long plain string", strings.NewReplacer(`"member":"`, `"member":"m-1234567890-1234567890_~`[:34]), true},
	{"control character", strings.NewReplacer(`"member":"`, "\"member\":\"\n"), false},
	{"exponent", strings.NewReplacer(`"capacity":`, `"capacity":1e3,"x":`), false},
	{"float exponent", strings.NewReplacer(`"cpu":`, `"cpu":5e-1,"x":`), false},
	{"leading zero", strings.NewReplacer(`"capacity":`, `"capacity":01,"x":`), false},
	{"fraction", strings.NewReplacer(`"capacity":`, `"capacity":1.0,"x":`), false},
	{"negative", strings.NewReplacer(`"capacity":`, `"capacity":-1,"x":`), false},
	{"negative zero", strings.NewReplacer(`"sessions":`, `"sessions":-0,"x":`), false},
	{"huge", strings.NewReplacer(`"seq":`, `"seq":18446744073709551615,"x":`), false},
	{"too huge", strings.NewReplacer(`"seq":`, `"seq":18446744073709551616,"x":`), false},
	{"overflow", strings.NewReplacer(`"cpu":`, `"cpu":1`+strings.Repeat("0", 400)+`,"x":`), false},
	{"text for a number", strings.NewReplacer(`"seq":`, `"seq":"1","x":`), false},
	{"deep", strings.NewReplacer(`"seq":`, `"x":`+strings.Repeat("[", 50)+strings.Repeat("]", 50)+`,"seq":`), false},
	{"too deep", strings.NewReplacer(`"seq":`, `"x":`+strings.Repeat("[", 10001)+strings.Repeat("]", 10001)+`,"seq":`), false},
	{"a URL without host", strings.NewReplacer(`"url":"`, `"url":"https://","x":"`), false},
	{"an empty URL", strings.NewReplacer(`"url":"`, `"url":"","x":"`), false},
	{"no server", strings.NewReplacer(`"server":`, `"x":`), false},
	{"another server", strings.NewReplacer(`"server":"`, `"server":"x-`), false},
	{"a bad time", strings.NewReplacer(`"at":"2026`, `"at":"2026-13`), false},
	{"a state that no server says", strings.NewReplacer(`"state":"up"`, `"state":"down"`), false},
	{"an unknown state", strings.NewReplacer(`"state":"up"`, `"state":"fine"`), false},
	{"a newer version", strings.NewReplacer(`"version":1`, `"version":2`), false},
	{"more after it", strings.NewReplacer(`}}`, `}}}`), false},
	{"a comma too many", strings.NewReplacer(`"seq":`, `,"seq":`), false},
	{"too large", strings.NewReplacer(`"seq":`, `"x":"`+strings.Repeat("x", events.MaxHeartbeat)+`","seq":`), false},
}

func TestScanHeartbeat(t *testing.T) {
	subject, plain := plainHeartbeat(t)
	before, err := events.Decode(subject, plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range oddHeartbeats {
		data := []byte(c.change.Replace(string(plain)))
		if c.name != "plain" && string(data) == string(plain) {
			t.Errorf("%s: nothing is changed", c.name)
		}
		for _, like := range []*events.Heartbeat{nil, before.(*events.Heartbeat)} {
			if got := checkScan(t, subject, data, like); got != c.quick {
				t.Errorf("%s: scanned: %v, want %v", c.name, got, c.quick)
			}
		}
	}
	for _, other := range []string{"berth.v1.load.eu-west-1.eu-west-1-a", subject + "b", subject + ".b", "heartbeat", ""} {
		if checkScan(t, other, plain, nil) {
			t.Errorf("scanned on %q", other)
		}
	}
}

func TestViewHead(t *testing.T) {
	data := read(t, "view.json")
	var u events.ViewUpdate
	if err := json.Unmarshal(data, &u); err != nil {
		t.Fatal(err)
	}
	subject := u.Subject().String()
	if got, err := events.DecodeViewHead(subject, data); err != nil || got.Seq != u.Seq || got.Region != u.Region {
		t.Errorf("%+v (%v), want sequence %d", got, err, u.Seq)
	}
	for name, data := range map[string][]byte{
		"another region":          []byte(`{"version":1,"region":"mars-1","seq":1,"at":"2026-11-01T12:00:00Z"}`),
		"no sequence":             []byte(`{"version":1,"region":"` + u.Region + `","at":"2026-11-01T12:00:00Z"}`),
		"a version of the future": []byte(`{"version":2,"region":"` + u.Region + `","seq":1,"at":"2026-11-01T12:00:00Z"}`),
		"half of it":              data[:len(data)/2],
		"too large":               make([]byte, events.MaxSize+1),
	} {
		if got, err := events.DecodeViewHead(subject, data); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestScanKnowsEveryField: a field that is added to a heartbeat or a server needs its line in
// the scanner, or it is lost, or slow.
func TestScanKnowsEveryField(t *testing.T) {
	h := events.Heartbeat{}
	fill(reflect.ValueOf(&h).Elem())
	h.Version, h.Server, h.Region, h.State, h.Boot = 1, "eu-west-1-a", "eu-west-1", events.StateUp, strings.Repeat("0", 26)
	h.Member, h.URL, h.HealthURL, h.AuthURL, h.IntervalMS = "m", "http://a", "http://b", "http://c", 1000
	data, err := events.Encode(&h)
	if err != nil {
		t.Fatal(err)
	}
	if !checkScan(t, beatSubject, data, nil) {
		t.Errorf("not scanned: %s", data)
	}
	var s events.Server
	fill(reflect.ValueOf(&s).Elem())
	s.State = events.StateSuspect
	if data, err = json.Marshal(&s); err != nil {
		t.Fatal(err)
	}
	if allocs := testing.AllocsPerRun(100, func() {
		if got, err := events.DecodeServer(data, &s); err != nil || got.Seq != s.Seq {
			t.Fatal(got, err)
		}
	}); allocs > 1 {
		t.Errorf("%v allocations for a server that is known, want 1: a field is read by reflection", allocs)
	}
}

// fill gives every field a value that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.CanSet() && v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 11, 1, 12, 0, 0, 500, time.UTC)))
			return
		}
		for _, field := range v.Fields() {
			fill(field)
		}
	case reflect.String:
		v.SetString(fmt.Sprint("x", v.Type().Size()))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("eu-west-1"), reflect.ValueOf("0/16"))
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	default:
		panic(v.Kind().String())
	}
}

// BenchmarkScanHeartbeat reads a server's heartbeats, one after the other.
func BenchmarkScanHeartbeat(b *testing.B) {
	subject, plain := plainHeartbeat(b)
	var h, like events.Heartbeat
	if !events.ScanHeartbeat(subject, plain, &like, nil) {
		b.Fatal("not scanned")
	}
	b.ReportAllocs()
	for b.Loop() {
		if !events.ScanHeartbeat(subject, plain, &h, &like) {
			b.Fatal("not scanned")
		}
	}
}

// BenchmarkDecodeServer reads the values of a server, one after the other.
func BenchmarkDecodeServer(b *testing.B) {
	var s events.Server
	fill(reflect.ValueOf(&s).Elem())
	s.State = events.StateUp
	data, err := json.Marshal(&s)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.DecodeServer(data, &s); err != nil {
			b.Fatal(err)
		}
	}
}
