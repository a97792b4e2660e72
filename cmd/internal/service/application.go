package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/sdk/server"
)

// Times and bounds of looking at the application.
const (
	lookTimeout = time.Second
	maxAnswer   = 4 << 10
)

// application is what is known of the application beside the agent.
type application struct {
	health, loadURL, loadCommand string
	capacity                     int
	client                       *http.Client
	// fault is why it does not serve, nil if it does; load what it said last, nil: nothing yet.
	fault atomic.Pointer[error]
	load  atomic.Pointer[events.Load]
	// said is what is wrong with its load, so that it is logged once.
	said atomic.Pointer[string]
}

func newApplication(c *AgentConfig) *application {
	a := &application{
		health: c.Health, loadURL: c.LoadURL, loadCommand: c.LoadCommand, capacity: c.Capacity,
		client: &http.Client{
			Timeout:       lookTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	unknown := errors.New("it was not asked yet")
	a.fault.Store(&unknown)
	return a
}

// alive implements server.Config.Alive.
func (a *application) alive() error {
	if fault := a.fault.Load(); fault != nil {
		return *fault
	}
	return nil
}

// look asks the application for its health and load. It returns what is wrong with the load, the first time.
func (a *application) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if _, err := a.get(ctx, a.health); err != nil {
		err = fmt.Errorf("health of the application: %w", err)
		a.fault.Store(&err)
		return nil // told by who leaves the heartbeats out
	}
	a.fault.Store(nil)
	l, err := a.ask(ctx)
	if err == nil {
		a.load.Store(l)
		a.said.Store(nil)
		return nil
	}
	a.load.Store(nil)
	if text := err.Error(); a.said.Swap(&text) == nil {
		return err
	}
	return nil
}

// get returns what a URL answers with a status of success.
func (a *application) get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return body, nil
}

// ask returns the load that the application reports, nil if it reports none.
func (a *application) ask(ctx context.Context) (*events.Load, error) {
	var data []byte
	var err error
	switch {
	case a.loadURL != "":
		data, err = a.get(ctx, a.loadURL)
	case a.loadCommand != "":
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", a.loadCommand)
		cmd.WaitDelay = lookTimeout
		data, err = cmd.Output()
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load of the application: %w", err)
	}
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("load of the application: more than %d bytes", maxAnswer)
	}
	l := new(events.Load)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf(`load of the application: want JSON such as {"in_flight": 3, "max_in_flight": 100, "cpu": 0.4}: %w`, err)
	}
	return l, nil
}

// report implements server.Config.Load: what the application says goes before what was measured.
func (a *application) report(sampled events.Load) events.Load {
	own := a.load.Load()
	if own == nil {
		return sampled
	}
	l := *own
	if l.Sessions == 0 {
		l.Sessions = sampled.Sessions
	}
	if l.CPU == 0 {
		l.CPU = sampled.CPU
	}
	if l.Utilisation == 0 {
		l.Utilisation = server.Utilisation(l, a.capacity)
	}
	return l
}

// watch looks every interval until ctx ends.
func (a *application) watch(ctx context.Context, every time.Duration, complain func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := a.look(ctx); err != nil && ctx.Err() == nil {
			complain(err)
		}
	}
}
