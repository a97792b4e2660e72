package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Setup says how to measure, whatever that is.
type Setup struct {
	// Phase is how long each measurement takes. Zero: what the bench takes by itself.
	Phase time.Duration
	// Program is the berth program; its hidden commands below `bench` are the processes that
	// are measured and that load them.
	Program string
	// Progress gets a line for each step.
	Progress io.Writer
}

// prepare returns the first fault of a set-up for n things, of which there are at most most, or
// fills in how long a phase is by itself.
func (s *Setup) prepare(things string, n, most int, phase time.Duration) error {
	switch {
	case n < 1 || n > most:
		return fmt.Errorf("%s %d: want 1 to %d", things, n, most)
	case s.Phase < 0:
		return fmt.Errorf("phase %v: want at least 0", s.Phase)
	case s.Program == "":
		return errors.New("no program")
	}
	if s.Phase == 0 {
		s.Phase = phase
	}
	return nil
}

func (s *Setup) say(format string, args ...any) {
	fmt.Fprintf(s.Progress, format+"\n", args...)
}

// trial is one run of a bench: the directory for its files, which goes with it, and what it has
// found so far.
type trial struct {
	dir    string
	report Report
}

// do takes the steps of a bench, one after the other, up to the first that fails.
func (t *trial) do(ctx context.Context, steps ...func(context.Context) error) (err error) {
	if t.dir, err = os.MkdirTemp("", "berth-bench-"); err != nil {
		return fmt.Errorf("make temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(t.dir)) }()
	for _, step := range steps {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
	return nil
}
