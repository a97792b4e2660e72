package wire

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// Scanner reads JSON as this build, and any plain encoder, writes it: known keys, each at most
// once, strings of ASCII without escapes, whole numbers without exponents. It is a fast way to
// what encoding/json would read, never another: at anything else it stops, ok is false, and
// the payload is to be read by encoding/json.
type Scanner struct {
	data []byte
	at   int
	ok   bool
}

// Scan returns a scanner of data.
func Scan(data []byte) Scanner { return Scanner{data: data, ok: true} }

// OK reports whether everything was plain so far.
func (s *Scanner) OK() bool { return s.ok }

// At returns how far the scanner is, for Back.
func (s *Scanner) At() int { return s.at }

// Back goes back to where it was at.
func (s *Scanner) Back(at int) { s.at = at }

// maxDepth is how deep a value may nest that is skipped.
const maxDepth = 16

// Stop gives up. It returns false for the convenience of its callers.
func (s *Scanner) Stop() bool {
	s.ok = false
	return false
}

// space skips white space.
func (s *Scanner) space() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// next reports whether b comes next, after white space, and steps over it.
func (s *Scanner) next(b byte) bool {
	if s.at < len(s.data) && s.data[s.at] == b { // mostly there is no white space
		s.at++
		return true
	}
	s.space()
	if s.at < len(s.data) && s.data[s.at] == b {
		s.at++
		return true
	}
	return false
}

// Open steps into an object.
func (s *Scanner) Open() {
	if !s.next('{') {
		s.Stop()
	}
}

// Key returns the next key of an object, false at its end or fault. first says that none was
// read yet.
func (s *Scanner) Key(first bool) ([]byte, bool) {
	if s.next('}') {
		return nil, false
	}
	if !first && !s.next(',') {
		return nil, s.Stop()
	}
	k := s.Text()
	if !s.ok || !s.next(':') {
		return nil, s.Stop()
	}
	return k, true
}

// What a key may be that is no field's.
const (
	// Unknown stops the scanner.
	Unknown = -1
	// Ignored may come any number of times.
	Ignored = 32
)

// Object calls field with each key of an object. It reads the value and returns the number of the
// field, below 32, by which those that come twice are found; or Unknown, or Ignored.
func (s *Scanner) Object(field func(key []byte) int) {
	var had Fields
	s.Open()
	for first := true; s.ok; first = false {
		key, more := s.Key(first)
		if !more {
			return
		}
		if number := field(key); number == Unknown || !had.Add(number) {
			s.Stop()
		}
	}
}

// List steps into an array.
func (s *Scanner) List() {
	if !s.next('[') {
		s.Stop()
	}
}

// Item reports whether an array has another element, which comes next. first says that none was
// read yet.
func (s *Scanner) Item(first bool) bool {
	switch {
	case s.next(']'):
		return false
	case first || s.next(','):
		return s.ok
	default:
		return s.Stop()
	}
}

// End reports whether everything was read.
func (s *Scanner) End() bool {
	s.space()
	return s.ok && s.at == len(s.data)
}

// Text returns the bytes of a string, which stay part of the payload.
func (s *Scanner) Text() []byte {
	if !s.next('"') {
		s.Stop()
		return nil
	}
	data, i := s.data, s.at
	for ; i+8 <= len(data); i += 8 {
		if odd := oddBytes(binary.LittleEndian.Uint64(data[i:])); odd != 0 {
			i += bits.TrailingZeros64(odd) / 8
			break
		}
	}
	for ; i < len(data); i++ {
		switch b := data[i]; {
		case b == '"':
			t := data[s.at:i]
			s.at = i + 1
			return t
		case b < ' ' || b == '\\' || b >= 0x80:
			s.Stop()
			return nil
		}
	}
	s.Stop()
	return nil
}

// oddBytes has the highest bit set of the first byte in word, from the lowest, that ends a plain
// string or has no place in one; it may have those of others above it. Zero: there is none.
func oddBytes(word uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, escape := word^'"'*ones, word^'\\'*ones
	return (word | (word-' '*ones)&^word | (quote-ones)&^quote | (escape-ones)&^escape) & highs
}

// Keep reads a string; where it is the same as like, it is that one.
func (s *Scanner) Keep(like string) string {
	t := s.Text()
	if string(t) == like {
		return like
	}
	return string(t)
}

// Part reads a string as a part of text, which has to be what is scanned: it costs no allocation.
func (s *Scanner) Part(text string) string {
	t := s.Text()
	if !s.ok {
		return ""
	}
	return text[s.at-1-len(t) : s.at-1]
}

// Value steps over any value and returns it.
func (s *Scanner) Value() []byte {
	s.space()
	from := s.at
	s.skip(0)
	return s.data[from:s.at]
}

// maxDigits is how many digits of a number are sure to fit.
const maxDigits = 18

// Natural reads a whole number of at least 0.
func (s *Scanner) Natural() uint64 {
	s.space()
	from := s.at
	var n uint64
	for s.at < len(s.data) && digit(s.data[s.at]) {
		n = 10*n + uint64(s.data[s.at]-'0')
		s.at++
	}
	if count := s.at - from; count == 0 || count > maxDigits || count > 1 && s.data[from] == '0' || s.fractional() {
		s.Stop()
	}
	return n
}

// Whole reads a whole number of at least 0 as an int.
func (s *Scanner) Whole() int { return int(s.Natural()) }

// fractional reports whether a number goes on with a fraction or an exponent.
func (s *Scanner) fractional() bool {
	return s.at < len(s.data) && (s.data[s.at] == '.' || s.data[s.at]|0x20 == 'e')
}

// tens are the powers of ten that a float64 holds exactly and by which one of at most
// exactDigits digits may be divided with a single rounding.
var tens = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

const exactDigits = 15

// Float reads a number.
func (s *Scanner) Float() float64 {
	s.space()
	from := s.at
	negative := s.at < len(s.data) && s.data[s.at] == '-'
	if negative {
		s.at++
	}
	whole := s.at
	var n uint64
	for s.at < len(s.data) && digit(s.data[s.at]) {
		n = 10*n + uint64(s.data[s.at]-'0') // what overflows is not used
		s.at++
	}
	digits := s.at - whole
	if digits == 0 || digits > 1 && s.data[whole] == '0' {
		s.Stop()
		return 0
	}
	fraction := 0
	if s.at < len(s.data) && s.data[s.at] == '.' {
		s.at++
		for s.at < len(s.data) && digit(s.data[s.at]) {
			n = 10*n + uint64(s.data[s.at]-'0')
			s.at++
			fraction++
		}
		if fraction == 0 {
			s.Stop()
			return 0
		}
	}
	if s.at < len(s.data) && s.data[s.at]|0x20 == 'e' {
		s.Stop()
		return 0
	}
	if digits+fraction > exactDigits {
		f, err := strconv.ParseFloat(string(s.data[from:s.at]), 64)
		if err != nil {
			s.Stop()
		}
		return f
	}
	f := float64(n) / tens[fraction]
	if negative {
		f = math.Copysign(f, -1)
	}
	return f
}

// Time reads a time as encoding/json does.
func (s *Scanner) Time() (t time.Time) {
	s.space()
	from := s.at
	if s.Text(); s.ok && t.UnmarshalJSON(s.data[from:s.at]) != nil {
		s.Stop()
	}
	return t
}

func digit(b byte) bool { return b >= '0' && b <= '9' }

// Ignore skips the value of a key that this build does not know. A key that encoding/json
// might take for a known one, for it minds no case, is none of those.
func (s *Scanner) Ignore(key []byte) {
	for _, b := range key {
		if b >= 'A' && b <= 'Z' {
			s.Stop()
			return
		}
	}
	s.skip(0)
}

// skip steps over any value.
func (s *Scanner) skip(depth int) {
	s.space()
	if s.at >= len(s.data) || depth > maxDepth {
		s.Stop()
		return
	}
	switch b := s.data[s.at]; {
	case b == '"':
		s.Text()
	case b == '{':
		s.at++
		for first := true; ; first = false {
			if _, more := s.Key(first); !more {
				return
			}
			s.skip(depth + 1)
			if !s.ok {
				return
			}
		}
	case b == '[':
		s.at++
		if s.next(']') {
			return
		}
		for {
			s.skip(depth + 1)
			if !s.ok || s.next(']') {
				return
			}
			if !s.next(',') {
				s.Stop()
				return
			}
		}
	case b == '-' || digit(b):
		s.Float()
	default:
		s.word()
	}
}

// Bool reads true or false.
func (s *Scanner) Bool() bool {
	s.space()
	from := s.at
	s.word()
	switch string(s.data[from:s.at]) {
	case "true":
		return true
	case "false":
	default:
		s.Stop()
	}
	return false
}

// word steps over true, false and null.
func (s *Scanner) word() {
	for _, w := range [...]string{"true", "false", "null"} {
		if rest := s.data[s.at:]; len(rest) >= len(w) && string(rest[:len(w)]) == w {
			s.at += len(w)
			return
		}
	}
	s.Stop()
}

// Fields tells which known keys an object had, to find those that come twice.
type Fields uint32

// Add notes a key by its number, and reports whether it is the first time.
func (f *Fields) Add(number int) bool {
	bit := Fields(1) << number
	first := *f&bit == 0
	*f |= bit
	return first
}
