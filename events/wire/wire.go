// Package wire promises the bytes of encoding/json, written by appending: for what is encoded
// for every refresh, where reflection would cost more than the work it describes.
//
// Who writes a struct this way keeps its fields in the order of the struct, and a test that
// compares with encoding/json, so that a field that is added to one is missed in the other.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Writer appends one JSON value to a buffer. After a fault it goes on appending, and Bytes
// reports the first. Names of fields are taken to need no escaping.
type Writer struct {
	buf []byte
	// start is where the value begins.
	start int
	err   error
}

// NewWriter returns a writer that appends to buf, which may be nil.
func NewWriter(buf []byte) Writer { return Writer{buf: buf, start: len(buf)} }

// Reset lets go of what was written, and writes over it from now on.
func (w *Writer) Reset() { *w = Writer{buf: w.buf[:0]} }

// Bytes returns the buffer with what was appended, or why it is no JSON.
func (w *Writer) Bytes() ([]byte, error) {
	if w.err != nil {
		return nil, fmt.Errorf("write json: %w", w.err)
	}
	return w.buf, nil
}

// Open begins an object, alone or as an element of an array. Everything else comes inside of one.
func (w *Writer) Open() { w.element(); w.buf = append(w.buf, '{') }

// Close ends the object.
func (w *Writer) Close() { w.buf = append(w.buf, '}') }

// Object begins an object as a field.
func (w *Writer) Object(name string) { w.Name(name); w.buf = append(w.buf, '{') }

// Array begins an array as a field.
func (w *Writer) Array(name string) { w.Name(name); w.buf = append(w.buf, '[') }

// End ends the array.
func (w *Writer) End() { w.buf = append(w.buf, ']') }

// Objects writes an array of objects as a field, null for a nil one. fields writes those of an element.
func Objects[T any](w *Writer, name string, list []T, fields func(*Writer, *T)) {
	if list == nil {
		w.Any(name, nil)
		return
	}
	w.Array(name)
	for i := range list {
		w.Open()
		fields(w, &list[i])
		w.Close()
	}
	w.End()
}

// element separates what comes from what came before in an array.
func (w *Writer) element() {
	if n := len(w.buf); n > w.start && w.buf[n-1] != '[' {
		w.buf = append(w.buf, ',')
	}
}

// field separates what comes from what came before in an object.
func (w *Writer) field() {
	if w.buf[len(w.buf)-1] != '{' {
		w.buf = append(w.buf, ',')
	}
}

// Name begins a field whose value is appended next.
func (w *Writer) Name(name string) {
	w.field()
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, '"', ':')
}

// String writes a field.
func (w *Writer) String(name, v string) { w.Name(name); w.buf = appendString(w.buf, v) }

// Filled writes a field, unless it is empty.
func (w *Writer) Filled(name, v string) {
	if v != "" {
		w.String(name, v)
	}
}

// Item writes an element of an array.
func (w *Writer) Item(v string) { w.element(); w.buf = appendString(w.buf, v) }

// Int writes a field.
func (w *Writer) Int(name string, v int64) { w.Name(name); w.buf = strconv.AppendInt(w.buf, v, 10) }

// Uint writes a field.
func (w *Writer) Uint(name string, v uint64) { w.Name(name); w.buf = strconv.AppendUint(w.buf, v, 10) }

// Bool writes a field.
func (w *Writer) Bool(name string, v bool) { w.Name(name); w.buf = strconv.AppendBool(w.buf, v) }

// True writes a field, unless it is false.
func (w *Writer) True(name string, v bool) {
	if v {
		w.Bool(name, v)
	}
}

// Float writes a field. Infinities and NaN are faults.
func (w *Writer) Float(name string, v float64) { w.Name(name); w.float(v) }

// Time writes a field in RFC 3339 with nanoseconds. Years that have not four digits are faults.
func (w *Writer) Time(name string, t time.Time) {
	w.Name(name)
	w.buf = append(w.buf, '"')
	buf, err := t.AppendText(w.buf)
	if err != nil {
		w.fault(err)
		return
	}
	w.buf = append(buf, '"')
}

// Any writes a field of whatever type, by reflection where it is none that encoding/json makes.
func (w *Writer) Any(name string, v any) { w.Name(name); w.value(v) }

// Entry writes a number under a key that may need escaping.
func (w *Writer) Entry(key string, v uint64) {
	w.key(key)
	w.buf = strconv.AppendUint(w.buf, v, 10)
}

// key begins a field whose name may need escaping.
func (w *Writer) key(name string) {
	w.field()
	w.buf = append(appendString(w.buf, name), ':')
}

// Fields writes the entries of a map as fields, in order, but for those whose names are left
// out. nil: none is.
func (w *Writer) Fields(m map[string]any, leftOut func(name string) bool) {
	var few [8]string
	names := few[:0]
	for name := range m {
		if leftOut == nil || !leftOut(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		w.key(name)
		w.value(m[name])
	}
}

func (w *Writer) fault(err error) {
	if w.err == nil {
		w.err = err
	}
}

// value writes a value of those types that encoding/json decodes into an any, others as it
// does. Values that hold themselves are none of these.
func (w *Writer) value(v any) {
	switch v := v.(type) {
	case nil:
		w.buf = append(w.buf, "null"...)
	case bool:
		w.buf = strconv.AppendBool(w.buf, v)
	case string:
		w.buf = appendString(w.buf, v)
	case float64:
		w.float(v)
	default:
		data, err := json.Marshal(v)
		if err != nil {
			w.fault(err)
		}
		w.buf = append(w.buf, data...)
	}
}

// float writes a number in the shorter of the two notations of ECMAScript, as encoding/json
// does.
func (w *Writer) float(v float64) {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		w.fault(errors.New("a number that JSON has not"))
		return
	}
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	w.buf = strconv.AppendFloat(w.buf, v, format, -1, 64)
	if n := len(w.buf); format == 'e' && n >= 4 && w.buf[n-4] == 'e' && w.buf[n-3] == '-' && w.buf[n-2] == '0' {
		w.buf[n-2] = w.buf[n-1] // e-09 is e-9
		w.buf = w.buf[:n-1]
	}
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string, with what encoding/json escapes so that it can stand
// in HTML. What is not UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		if i+8 <= len(s) {
			odd := escapedBytes(word(s[i:]))
			if odd == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(odd) / 8
		}
		b := s[i]
		if b < utf8.RuneSelf {
			if plain(b) {
				i++
				continue
			}
			dst = append(dst, s[from:i]...)
			dst = appendEscaped(dst, b)
			i++
			from = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(append(dst, s[from:i]...), `\ufffd`...)
			from = i + size
		case r == '\u2028' || r == '\u2029': // no line ends in JavaScript
			dst = append(append(dst, s[from:i]...), `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
			from = i + size
		}
		i += size
	}
	return append(append(dst, s[from:]...), '"')
}

// word returns the first eight bytes, the first of them lowest.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// escapedBytes has the highest bit set of the first byte in word, from the lowest, that is not
// plain; it may have those of others above it. Zero: all are.
func escapedBytes(word uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	angle := (word | 2*ones) ^ '>'*ones // < and > differ in one bit
	quote := (word | 4*ones) ^ '&'*ones // " and & differ in one bit
	escape := word ^ '\\'*ones
	return (word | (word-' '*ones)&^word | (angle-ones)&^angle | (quote-ones)&^quote | (escape-ones)&^escape) & highs
}

// plain reports whether an ASCII byte stands for itself.
func plain(b byte) bool {
	return b >= ' ' && b != '"' && b != '\\' && b != '<' && b != '>' && b != '&'
}

func appendEscaped(dst []byte, b byte) []byte {
	switch b {
	case '\\', '"':
		return append(dst, '\\', b)
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	default:
		return append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&0xf])
	}
}
