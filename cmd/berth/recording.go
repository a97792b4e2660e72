package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
)

// recorded is an event as it was recorded, a line of a file.
type recorded struct {
	Subject string          `json:"subject"`
	Event   json.RawMessage `json:"event"`
}

// recording is where recorded events are read from. Both call fn with each, in the order in which they
// were recorded, until it says false; done is the share of them that was read.
type recording interface {
	decisions(ctx context.Context, fn func(m recorded, done float64) bool) error
	sights(ctx context.Context, since time.Time, fn func(m recorded, done float64) bool) error
}

var (
	_ recording = (*recordingStreams)(nil)
	_ recording = (*recordingFile)(nil)
)

// recordingStreams is what the streams of a region hold.
type recordingStreams struct {
	conn  *jetstream.Conn
	since time.Time
}

func (s *recordingStreams) decisions(ctx context.Context, fn func(recorded, float64) bool) error {
	return s.read(ctx, jetstream.StreamEvents, events.KindDecision, s.since, fn)
}

func (s *recordingStreams) sights(ctx context.Context, since time.Time, fn func(recorded, float64) bool) error {
	return s.read(ctx, jetstream.StreamViews, events.KindSight, since, fn)
}

func (s *recordingStreams) read(ctx context.Context, stream string, kind events.Kind, since time.Time, fn func(recorded, float64) bool) error {
	read := 0.0
	subject := events.Subject{Kind: kind, Region: s.conn.Region()}.Filter()
	return s.conn.Stored(ctx, stream, subject, since, func(m jetstream.Message, left uint64) bool {
		read++
		return fn(recorded{Subject: m.Subject, Event: m.Data}, read/(read+float64(left)))
	})
}

// recordingFile is a file that was written before.
type recordingFile struct {
	name string
	// since is the time of the first decision that counts.
	since time.Time
}

func (f *recordingFile) decisions(ctx context.Context, fn func(recorded, float64) bool) error {
	return f.read(ctx, events.KindDecision, func(m recorded, done float64) bool {
		var head struct {
			At time.Time `json:"at"`
		}
		if err := json.Unmarshal(m.Event, &head); err == nil && head.At.Before(f.since) {
			return true
		}
		return fn(m, done)
	})
}

func (f *recordingFile) sights(ctx context.Context, _ time.Time, fn func(recorded, float64) bool) error {
	return f.read(ctx, events.KindSight, fn)
}

// maxRecorded bounds in bytes a line of a file: an event, and what stands around it.
const maxRecorded = events.MaxSize + 4<<10

// read reads the events of a kind.
func (f *recordingFile) read(ctx context.Context, kind events.Kind, fn func(recorded, float64) bool) error {
	file, err := os.Open(f.name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	counted := &countingReader{Reader: file}
	lines := bufio.NewScanner(counted)
	lines.Buffer(make([]byte, 64<<10), maxRecorded)
	for n := 1; lines.Scan(); n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var m recorded
		if err := json.Unmarshal(line, &m); err != nil || m.Subject == "" {
			return fmt.Errorf("%s: line %d: want {\"subject\": …, \"event\": {…}}", f.name, n)
		}
		s, err := events.ParseSubject(m.Subject)
		if err != nil || s.Kind != kind {
			continue
		}
		if !fn(m, float64(counted.n)/float64(max(1, info.Size()))) {
			return nil
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%s: a line is longer than %d bytes", f.name, maxRecorded)
	} else if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// countingReader counts what was read.
type countingReader struct {
	io.Reader
	n int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}

// recordingWriter writes a file that recordingFile reads.
type recordingWriter struct {
	file *os.File
	buf  *bufio.Writer
}

// newRecordingFile makes the file, which names sessions: it is for its owner alone.
func newRecordingFile(name string) (*recordingWriter, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &recordingWriter{file: f, buf: bufio.NewWriter(f)}, nil
}

func (w *recordingWriter) write(m recorded) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode event of %s: %w", m.Subject, err)
	}
	_, err = w.buf.Write(append(data, '\n'))
	return err
}

func (w *recordingWriter) close() error { return errors.Join(w.buf.Flush(), w.file.Close()) }
