package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berthhq/berth/registry"
)

var _ registry.Disconnects = Disconnects{}

// Disconnects tells a registry which regional servers' connections NATS has seen end. NATS says it in its system account
// within a millisecond of the end; for the registry's account to hear it, the one has to export and the other to import the
// stream $SYS.ACCOUNT.<account>.DISCONNECT, as package embedded does for its servers. Where it is not imported nothing is
// heard, and nothing else suffers.
//
// A connection names its server and boot itself (Config.Server), so it is believed only if its user may send that
// server's heartbeats: a user of the server's own name or of <region>.<server>, one of those named, or the registry's
// own user, which without authentication is everybody's.
type Disconnects struct {
	conn  *Conn
	users []string
}

// Disconnects returns the source of lost connections for a registry.Config. users are those, beside the servers' own,
// that may send any heartbeat of the region: names, or public keys where users are known by them.
func (c *Conn) Disconnects(users ...string) Disconnects { return Disconnects{c, users} }

// disconnectSubject is where NATS says that a connection of any account has ended.
const disconnectSubject = "$SYS.ACCOUNT.*.DISCONNECT"

// whoAmI asks NATS for the user and the account of the connection that asks.
const (
	whoAmI        = "$SYS.REQ.USER.INFO"
	whoAmITimeout = 2 * time.Second
)

// identity is what NATS takes a connection for.
type identity struct {
	User    string `json:"user"`
	Account string `json:"account"`
}

// Watch implements registry.Disconnects.
func (d Disconnects) Watch(ctx context.Context, fn func(server, boot string)) (stop func(), err error) {
	var own atomic.Pointer[identity] // nil while it is not known
	ask := func(ctx context.Context) {
		i, err := d.conn.identity(ctx)
		if err != nil {
			d.conn.log.LogAttrs(ctx, slog.LevelWarn, "nats does not say who this is: of lost connections those of servers' own users count alone",
				slog.String("error", err.Error()))
			return
		}
		own.Store(&i)
	}
	ask(ctx)
	lasting := context.WithoutCancel(ctx)
	stopAsking := d.conn.OnReconnect(func() { go ask(lasting) }) // it ends within whoAmITimeout
	stopHearing, err := d.conn.Subscribe(ctx, disconnectSubject, func(_ string, data []byte) {
		var event struct {
			Client struct {
				Account string `json:"acc"`
				User    string `json:"user"`
				Name    string `json:"name"`
			} `json:"client"`
		}
		i := own.Load()
		if json.Unmarshal(data, &event) != nil || i != nil && event.Client.Account != i.Account {
			return
		}
		server, boot, ok := d.conn.named(event.Client.Name)
		user := event.Client.User
		if ok && (user == server || user == d.conn.region+"."+server || i != nil && user == i.User || slices.Contains(d.users, user)) {
			fn(server, boot)
		}
	})
	if err != nil {
		stopAsking()
		return nil, err
	}
	return func() { stopAsking(); stopHearing() }, nil
}

// named returns the regional server of this region, and its boot, that a connection claims to be by its name.
func (c *Conn) named(name string) (server, boot string, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 5 || parts[0] != "berth" || parts[1] != RoleServer || parts[2] != c.region {
		return "", "", false
	}
	return parts[3], parts[4], true
}

// identity asks NATS who this connection is. Servers beyond a leaf connection may answer too, of the link: only the one
// that is connected to knows.
func (c *Conn) identity(ctx context.Context) (identity, error) {
	ctx, cancel := within(ctx, whoAmITimeout)
	defer cancel()
	inbox := c.nc.NewRespInbox()
	replies, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return identity{}, fmt.Errorf("ask nats who this is: %w", err)
	}
	defer func() { _ = replies.Unsubscribe() }() // of a connection that is gone it is gone too
	if err := c.nc.PublishRequest(whoAmI, inbox, nil); err != nil {
		return identity{}, fmt.Errorf("ask nats who this is: %w", err)
	}
	for {
		reply, err := replies.NextMsgWithContext(ctx)
		if err != nil {
			return identity{}, fmt.Errorf("ask nats who this is: %w", err)
		}
		var info struct {
			Server struct {
				ID string `json:"id"`
			} `json:"server"`
			Data identity `json:"data"`
		}
		if json.Unmarshal(reply.Data, &info) == nil && info.Server.ID == c.nc.ConnectedServerId() {
			return info.Data, nil
		}
	}
}
