// Package wiretest promises that what is written by package wire is what encoding/json writes.
package wiretest

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// rounds is how many values Same tries, pointers how deep they go in those that hold their like.
const (
	rounds   = 500
	pointers = 4
)

// Same fails the test unless write gives the bytes of encoding/json: for a value with every
// field set, so that one that write does not know is found, for the zero value, and for values
// with some fields set to what has to be escaped, or is at the end of its range.
func Same[T any](t *testing.T, write func(v *T) ([]byte, error)) {
	t.Helper()
	for i := range rounds {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		full := i == 0
		var v T
		if i != 1 {
			fill(r, reflect.ValueOf(&v).Elem(), full, pointers)
		}
		want, err := json.Marshal(&v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := write(&v)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Fatalf("value %d is written as\n%s\nwant\n%s", i, got, want)
		}
	}
}

// texts are strings that an encoder may stumble over.
var texts = []string{"", "a", "eu-west-1", `"`, `\`, "<&>", "\x00\x1f\x7f\n\t", "žluť", "\u2028", "a\xffb", "😀", "https://x/?a=b&c"}

var numbers = []float64{0, 0.5, -1, 1e-7, 1e21, 123456789, math.MaxFloat64, math.SmallestNonzeroFloat64}

// fill sets a value, or leaves it as it is unless full. A pointer is left nil below so many others.
func fill(r *rand.Rand, v reflect.Value, full bool, below int) {
	if !full && r.IntN(4) == 0 || v.Kind() == reflect.Pointer && below == 0 {
		return
	}
	if v.Type() == reflect.TypeFor[time.Time]() {
		at := time.Unix(r.Int64N(1<<33), r.Int64N(1e9))
		v.Set(reflect.ValueOf(at.In(time.FixedZone("", 3600*r.IntN(3)))))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(r, v.Field(i), full, below)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), full, below-1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+r.IntN(2), 2))
		for i := range v.Len() {
			fill(r, v.Index(i), full, below)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"b", "a", "<c>", "role"}[:1+r.IntN(4)] {
			value := reflect.New(v.Type().Elem()).Elem()
			fill(r, value, full, below)
			v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), value)
		}
	case reflect.Interface:
		list := []any{"text <", 1.5, true, nil, []any{"x", 2.0}, map[string]any{"z": 1.0, "y": nil}}
		if value := list[r.IntN(len(list))]; value != nil {
			v.Set(reflect.ValueOf(value))
		}
	default:
		scalar(r, v, full)
	}
}

func scalar(r *rand.Rand, v reflect.Value, full bool) {
	switch v.Kind() {
	case reflect.String:
		text := texts[r.IntN(len(texts))]
		if full && text == "" {
			text = "full"
		}
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(full || r.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 + r.Int64N(math.MaxInt64-1))
		if !full && r.IntN(2) == 0 {
			v.SetInt(-v.Int())
		}
	case reflect.Uint64:
		v.SetUint(1 + r.Uint64N(math.MaxUint64-1))
	case reflect.Float64:
		v.SetFloat(numbers[r.IntN(len(numbers))])
		if full {
			v.SetFloat(0.25)
		}
	default:
		panic("no value for a " + v.Type().String())
	}
}
