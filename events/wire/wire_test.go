package wire_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/berthhq/berth/events/wire"
)

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", `"\/`, "<a href='x'>&", "\x00\x07\b\f\n\r\t\x1f\x7f", "žluťoučký", "\u2028\u2029\ufffd", "a\xffb\xc3", "😀\xf0\x9f", "0123456789abcdef", "01234567\"", "0123<567", "012345&7", "01>34567ž", "\x7f\x80\x1f\x20!#$%':;=?@[]^"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := wire.AppendString(nil, s); string(got) != string(want) {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	})
}

// sample has a field of each kind that a Writer writes.
type sample struct {
	S     string         `json:"s"`
	E     string         `json:"e,omitempty"`
	I     int64          `json:"i"`
	U     uint64         `json:"u"`
	B     bool           `json:"b"`
	T     bool           `json:"t,omitempty"`
	F     float64        `json:"f"`
	At    time.Time      `json:"at"`
	In    inner          `json:"in"`
	List  []string       `json:"list"`
	Ins   []inner        `json:"ins"`
	None  []inner        `json:"none"`
	Any   any            `json:"any"`
	Last  map[string]any `json:"last"`
	Empty inner          `json:"empty"`
}

type inner struct {
	S string `json:"s,omitempty"`
}

func (s *sample) write(w *wire.Writer) {
	w.Open()
	w.String("s", s.S)
	w.Filled("e", s.E)
	w.Int("i", s.I)
	w.Uint("u", s.U)
	w.Bool("b", s.B)
	w.True("t", s.T)
	w.Float("f", s.F)
	w.Time("at", s.At)
	w.Object("in")
	w.Filled("s", s.In.S)
	w.Close()
	w.Array("list")
	for _, v := range s.List {
		w.Item(v)
	}
	w.End()
	wire.Objects(w, "ins", s.Ins, func(w *wire.Writer, v *inner) { w.Filled("s", v.S) })
	wire.Objects(w, "none", s.None, func(w *wire.Writer, v *inner) { w.Filled("s", v.S) })
	w.Any("any", s.Any)
	w.Object("last")
	w.Fields(s.Last, nil)
	w.Close()
	w.Object("empty")
	w.Filled("s", s.Empty.S)
	w.Close()
	w.Close()
}

func FuzzWriter(f *testing.F) {
	f.Add("a", "", int64(-1), uint64(1), true, 0.5, int64(0), `{"b":[1,2.5e-9],"a":null,"<":"&"}`)
	f.Add("{", "[", int64(math.MinInt64), uint64(math.MaxUint64), false, 1e21, int64(1e18), `[]`)
	f.Add(":", ",", int64(0), uint64(0), false, -1e-7, int64(-1e18), `"x"`)
	f.Add("", "", int64(0), uint64(0), false, 0.0, int64(1), `1e300`)
	f.Fuzz(func(t *testing.T, a, b string, i int64, u uint64, flag bool, x float64, at int64, value string) {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return
		}
		s := sample{S: a, E: b, I: i, U: u, B: flag, T: !flag, F: x, At: time.Unix(0, at).UTC(), In: inner{b}, List: []string{a, b, ""}, Ins: []inner{{a}, {b}, {}}}
		if json.Unmarshal([]byte(value), &s.Any) != nil {
			s.Any = i
		}
		s.Last = map[string]any{a: s.Any, b: x, "z": s.List, "": nil}
		if strings.ToValidUTF8(a, "?") != a || strings.ToValidUTF8(b, "?") != b {
			s.Last = map[string]any{} // keys that become equal have no order
		}
		want, err := json.Marshal(s)
		if err != nil {
			return
		}
		w := wire.NewWriter([]byte("before"))
		s.write(&w)
		got, err := w.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != "before"+string(want) {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	})
}

func TestWriterRefuses(t *testing.T) {
	for name, write := range map[string]func(w *wire.Writer){
		"NaN":      func(w *wire.Writer) { w.Float("f", math.NaN()) },
		"infinity": func(w *wire.Writer) { w.Float("f", math.Inf(-1)) },
		"year":     func(w *wire.Writer) { w.Time("t", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)) },
		"type":     func(w *wire.Writer) { w.Any("c", make(chan int)) },
		"inside":   func(w *wire.Writer) { w.Fields(map[string]any{"a": math.NaN()}, nil) },
	} {
		w := wire.NewWriter(nil)
		w.Open()
		w.Bool("first", true)
		write(&w)
		w.Close()
		if got, err := w.Bytes(); err == nil {
			t.Errorf("%s: written as %s", name, got)
		}
	}
}

// TestEveryByte: each byte is escaped, or not, at each place of a word.
func TestEveryByte(t *testing.T) {
	for b := range 256 {
		for at := range 17 {
			s := []byte("0123456789abcdefg")
			s[at] = byte(b)
			want, err := json.Marshal(string(s))
			if err != nil {
				t.Fatal(err)
			}
			if got := wire.AppendString(nil, string(s)); string(got) != string(want) {
				t.Errorf("%q: %s, want %s", s, got, want)
			}
		}
	}
}
