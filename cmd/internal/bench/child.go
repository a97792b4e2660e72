package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// answer calls fn with each line of in, and a context that ends with in; what fn says goes to
// out, a line of JSON each.
func answer(ctx context.Context, in io.Reader, out io.Writer, fn func(ctx context.Context, order string, say func(any) error) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan string)
	go func() {
		defer cancel()
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	say := json.NewEncoder(out).Encode
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, more := <-lines:
			if !more {
				return nil
			}
			if err := fn(ctx, line, say); err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
	}
}

// child is a process of this program that takes orders. It ends when its standard input does,
// however this process ends.
type child struct {
	name   string
	cmd    *exec.Cmd
	orders io.WriteCloser
	said   *json.Decoder
	stderr *strings.Builder
	ended  chan struct{}
}

// childEnd is how long a child may take to end before it is killed.
const childEnd = 5 * time.Second

func start(ctx context.Context, program string, args ...string) (*child, error) {
	c := &child{name: strings.Join(args[:min(2, len(args))], " "), stderr: new(strings.Builder), ended: make(chan struct{})}
	c.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, args...)
	// What is set for the berth programs of this machine is none of the measured one's.
	c.cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "BERTH_") || strings.HasPrefix(variable, "NATS_URL=")
	})
	c.cmd.Stderr = c.stderr
	var err error
	if c.orders, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	c.said = json.NewDecoder(out)
	stop := context.AfterFunc(ctx, func() { _ = c.orders.Close() })
	go func() {
		<-c.ended
		stop()
	}()
	return c, nil
}

// order sends a line.
func (c *child) order(line string) error {
	if _, err := io.WriteString(c.orders, line+"\n"); err != nil {
		return c.fault(err)
	}
	return nil
}

// hear reads what it says next.
func (c *child) hear(v any) error {
	if err := c.said.Decode(v); err != nil {
		return c.fault(err)
	}
	return nil
}

// ask sends a line and reads the answer.
func (c *child) ask(line string, v any) error {
	if err := c.order(line); err != nil {
		return err
	}
	return c.hear(v)
}

func (c *child) fault(err error) error {
	return fmt.Errorf("%s has ended: %w", c.name, err)
}

// close ends the process and waits for that.
func (c *child) close() error {
	_ = c.orders.Close()
	kill := time.AfterFunc(childEnd, func() { _ = c.cmd.Process.Kill() })
	err := c.cmd.Wait()
	kill.Stop()
	close(c.ended)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", c.name, err), errors.New(strings.TrimSpace(c.stderr.String())))
	}
	return nil
}
