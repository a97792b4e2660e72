package dev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
)

// Times of a child: after SIGTERM it drains for Config.Drain and ends within childEnd, or is
// killed.
const (
	childEnd   = 4 * time.Second
	childStart = 20 * time.Second
)

// child is one demo server. It ends with its parent, however that ends: it watches the pipe
// that is its standard input.
type child struct {
	fleet  *fleet
	region *region
	id     string
	// port is fixed once the first start has chosen it, so that the URL stays.
	port int

	// mu guards the fields below, which change when the server is started again.
	mu       sync.Mutex
	cmd      *exec.Cmd
	url      string
	ready    chan struct{}
	done     chan struct{}
	stopping bool
}

// readyPrefix begins the line by which a child says that it serves.
const readyPrefix = "serving on "

// start runs the process. It does not wait until it serves. Settings of the environment are
// the fleet's: the child gets its own as flags, and a BERTH_URL, say, would be that of all.
func (c *child) start(ctx context.Context) error {
	f := c.fleet
	args := append([]string{}, f.cfg.Args...)
	args = append(args,
		"--nats", c.region.nats.ClientURL(), "--region", c.region.name, "--server", c.id,
		"--listen", f.cfg.address(c.port), "--location", c.region.at.String(),
		"--issuer", service.URL(f.front), "--drain", f.cfg.Drain.String(), "--with-parent")
	cmd := exec.CommandContext(context.WithoutCancel(ctx), f.cfg.Program, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "BERTH_") || strings.HasPrefix(variable, "NATS_URL=")
	})
	cmd.Stderr = f.cfg.Stderr
	cmd.SysProcAttr = ownGroup()
	if _, err := cmd.StdinPipe(); err != nil {
		return fmt.Errorf("open pipe: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("open pipe: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return context.Canceled
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmd, c.ready, c.done = cmd, make(chan struct{}), make(chan struct{})
	go c.follow(cmd, out, c.ready, c.done)
	return nil
}

// follow reads what the child says until it ends.
func (c *child) follow(cmd *exec.Cmd, out io.Reader, ready, done chan struct{}) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), readyPrefix); ok {
			c.serves(url)
			close(ready)
			break
		}
	}
	_, _ = io.Copy(io.Discard, out) // ends with the process
	_ = cmd.Wait()                  // a killed server is what this fleet is for
	close(done)
}

// serves notes the address, which a later start uses again.
func (c *child) serves(url string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.url = url
	_, _ = fmt.Sscanf(url[strings.LastIndexByte(url, ':')+1:], "%d", &c.port)
}

// await returns once the server serves.
func (c *child) await(ctx, inner context.Context) error {
	c.mu.Lock()
	ready, done := c.ready, c.done
	c.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-done:
		return errors.New("it ended before it served; see its messages above")
	case <-ctx.Done():
		return ctx.Err()
	case <-inner.Done():
		return context.Cause(inner)
	case <-time.After(childStart):
		return fmt.Errorf("it does not serve after %s", childStart)
	}
}

// supervise waits for the child's end and, if the fleet is told to, starts it again.
func (c *child) supervise(ctx context.Context) error {
	for {
		c.mu.Lock()
		done, pid := c.done, c.cmd.Process.Pid
		c.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			<-done
		}
		if ctx.Err() != nil {
			return nil
		}
		c.fleet.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "demo server ended", slog.String("server", c.id), slog.Int("pid", pid))
		if c.fleet.cfg.Restart == 0 {
			return nil
		}
		select {
		case <-time.After(c.fleet.cfg.Restart):
		case <-ctx.Done():
			return nil
		}
		if err := c.start(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("start server %s again: %w", c.id, err)
		}
		if err := c.fleet.writeReadyFile(); err != nil {
			return err
		}
	}
}

// stop asks the child to drain, and kills it if it does not end in time.
func (c *child) stop() {
	c.mu.Lock()
	c.stopping = true
	cmd, done := c.cmd, c.done
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	go func() {
		select {
		case <-done:
		case <-time.After(c.fleet.cfg.Drain + childEnd):
			_ = cmd.Process.Kill()
		}
	}()
}

// state returns what the ready file says of the child.
func (c *child) state() (url string, pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.url, c.cmd.Process.Pid
}
