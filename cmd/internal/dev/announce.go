package dev

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens"
)

// User is a user of the fleet. Its password is for dev only.
type User struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// users are the users of every dev fleet: anybody who reaches loopback may use them.
func users() []User {
	return []User{{"ada", "ada-dev"}, {"grace", "grace-dev"}}
}

// Ready is the ready file: what a script needs to use the fleet.
type Ready struct {
	GlobalURL string        `json:"globalUrl"`
	Regions   []ReadyRegion `json:"regions"`
	Users     []User        `json:"users"`
}

// ReadyRegion is one region of the ready file.
type ReadyRegion struct {
	Region    string `json:"region"`
	NATSURL   string `json:"natsUrl"`
	TokensURL string `json:"tokensUrl"`
	// AdminURL serves /readyz, /metrics and the view of the token service, RegistryURL the
	// registry's.
	AdminURL    string        `json:"adminUrl"`
	RegistryURL string        `json:"registryUrl"`
	Servers     []ReadyServer `json:"servers"`
}

// ReadyServer is one demo server of the ready file.
type ReadyServer struct {
	ID  string `json:"id"`
	URL string `json:"url"`
	PID int    `json:"pid"`
}

// writeUsers writes the users file and returns its path.
func writeUsers(dir string) (string, error) {
	var list []tokens.User
	for _, u := range users() {
		hash, err := tokens.HashPassword(u.Password)
		if err != nil {
			return "", err
		}
		list = append(list, tokens.User{Username: u.Username, PasswordHash: hash, Scope: "orders"})
	}
	data, err := yaml.Marshal(map[string]any{"users": list})
	if err != nil {
		return "", fmt.Errorf("encode users: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	path := filepath.Join(dir, "users.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return "", fmt.Errorf("write users: %w", err)
	}
	return path, nil
}

// ready returns the fleet as it is now.
func (f *fleet) ready() Ready {
	r := Ready{GlobalURL: service.URL(f.front), Users: users()}
	for _, region := range f.regions {
		rr := ReadyRegion{Region: region.name, NATSURL: region.nats.ClientURL(), TokensURL: region.tokens, AdminURL: region.admin, RegistryURL: region.registry}
		for _, s := range region.servers {
			url, pid := s.state()
			rr.Servers = append(rr.Servers, ReadyServer{ID: s.id, URL: url, PID: pid})
		}
		r.Regions = append(r.Regions, rr)
	}
	return r
}

// writeReadyFile replaces the ready file at once, so that no reader sees half of it.
func (f *fleet) writeReadyFile() error {
	if f.cfg.ReadyFile == "" {
		return nil
	}
	data, err := json.MarshalIndent(f.ready(), "", "  ")
	if err != nil {
		return fmt.Errorf("encode ready file: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.cfg.ReadyFile), ".ready-*")
	if err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	_, err = tmp.Write(append(data, '\n'))
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.cfg.ReadyFile)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}

// viewTimeout is how long the servers and keys may take to be known everywhere.
const viewTimeout = 20 * time.Second

// awaitView returns once every region's token service knows every server as up, and every
// region's key.
func (f *fleet) awaitView(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, viewTimeout)
	defer cancel()
	for _, r := range f.regions {
		if err := poll(ctx, func() error { return f.knows(ctx, r) }); err != nil {
			return fmt.Errorf("region %s: %w", r.name, err)
		}
	}
	return nil
}

// poll calls ready until it returns nil, or ctx ends.
func poll(ctx context.Context, ready func() error) error {
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// knows returns nil if a region knows the whole fleet.
func (f *fleet) knows(ctx context.Context, r *region) error {
	var list service.AdminServers
	if err := get(ctx, r.admin+"/v1/servers", &list); err != nil {
		return err
	}
	up := 0
	for _, s := range list.Servers {
		if s.State == events.StateUp {
			up++
		}
	}
	if want := len(f.regions) * f.cfg.Servers; up < want {
		return fmt.Errorf("it knows %d of %d servers", up, want)
	}
	var keys struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := get(ctx, r.tokens+"/.well-known/jwks.json", &keys); err != nil {
		return err
	}
	if len(keys.Keys) < len(f.regions) {
		return fmt.Errorf("it knows %d of %d keys", len(keys.Keys), len(f.regions))
	}
	return nil
}

// get reads a JSON document.
func get(ctx context.Context, url string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	defer func() { _ = resp.Body.Close() }() // decoded already
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: status %d", url, resp.StatusCode)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	return nil
}

// announce writes the ready file and prints the table.
func (f *fleet) announce() error {
	if err := f.writeReadyFile(); err != nil {
		return err
	}
	return f.ready().print(f.cfg.Stdout)
}

// print writes the table of URLs and what to try.
func (r Ready) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "berth dev serves %s\n\n", r.GlobalURL)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REGION\tWHAT\tURL\tPID")
	for _, region := range r.Regions {
		fmt.Fprintf(t, "%s\tnats\t%s\t\n", region.Region, region.NATSURL)
		fmt.Fprintf(t, "\ttokens\t%s\t\n", region.TokensURL)
		fmt.Fprintf(t, "\ttokens admin\t%s\t\n", region.AdminURL)
		fmt.Fprintf(t, "\tregistry admin\t%s\t\n", region.RegistryURL)
		for _, s := range region.Servers {
			fmt.Fprintf(t, "\t%s\t%s\t%d\n", s.ID, s.URL, s.PID)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	first := r.Regions[0]
	fmt.Fprintf(&b, `
Try:
  curl -s %[1]s/v1/login -H 'X-Berth-Client-Location: 53.3,-6.3' -d '{"username":"%[3]s","password":"%[4]s"}'
  curl -s %[1]s/v1/closestToMe -H 'X-Berth-Client-Location: 1.3,103.8'
  nats --server %[2]s sub 'berth.v1.>'
  nats --server %[2]s kv watch berth_servers
  berth servers --nats %[2]s
  berth events --nats %[2]s
The passwords are for dev only. Ctrl-C drains and stops.
`, r.GlobalURL, first.NATSURL, r.Users[0].Username, r.Users[0].Password)
	_, err := io.WriteString(w, b.String())
	return err
}
