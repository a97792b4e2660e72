package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/berthhq/berth/cmd/internal/service"
	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/jetstream"
	"github.com/berthhq/berth/tokens"
)

// keysCmd groups the commands of signing keys.
type keysCmd struct {
	Generate keysGenerateCmd `cmd:"" help:"Write a new Ed25519 signing key to a file that only its owner may read."`
	List     keysListCmd     `cmd:"" help:"List the signing keys that a region knows, with their states."`
	Rotate   keysRotateCmd   `cmd:"" help:"Have a region sign with a new key, once every other region knows it."`
	Retire   keysRetireCmd   `cmd:"" help:"End a key that may have leaked, and all that it signed."`
}

type keysGenerateCmd struct {
	Out string `required:"" placeholder:"FILE" help:"File to write; it must not exist."`
}

// Run writes the key.
func (c *keysGenerateCmd) Run(p *program) error {
	if err := tokens.GenerateKey(c.Out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.stdout, "wrote %s; give it to every token service of one region, and to nobody else\n", c.Out)
	return err
}

// keysListCmd lists keys.
type keysListCmd struct {
	natsFlags
	JSON bool `name:"json" help:"Print the token service's answer."`
}

// Run asks a token service of the region at hand.
func (c *keysListCmd) Run(p *program) error {
	return operateKeys(p, c.natsFlags, func(ctx context.Context, o *keyOperator) error {
		reply, err := o.list(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(p, reply)
		}
		return keyTable(p, reply)
	})
}

func keyTable(p *program, reply tokens.KeysReply) error {
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tREGION\tSTATE\tSINCE\tSIGNS UNTIL\tVERIFIES UNTIL\tKNOWN BY\tMISSING IN")
	for _, k := range reply.Keys {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.KID, k.Region, k.State, date(k.Since), date(k.SignsUntil),
			date(k.VerifiesUntil), cmp.Or(strings.Join(k.KnownBy, ","), "-"), cmp.Or(strings.Join(k.MissingIn, ","), "-"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	switch {
	case reply.Waiting != nil:
		fmt.Fprintf(p.stdout, "a rotation to %s waits: %s\n", reply.Waiting.KID, reply.Waiting)
	case reply.Signing == "":
		fmt.Fprintf(p.stdout, "no key signs in %s\n", reply.Region)
	}
	_, err := fmt.Fprintf(p.stdout, "%s known in %s\n", count(len(reply.Keys), "key"), reply.Region)
	return err
}

// date returns a time for a table, "-" for none.
func date(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// keysRotateCmd rotates a region's key.
type keysRotateCmd struct {
	natsFlags
	To          string        `placeholder:"KEY" help:"Id of a key to rotate to that was added to the key file already (default: the token service makes one)."`
	Compromised bool          `help:"The key that signs may have leaked: another signs at once, and nothing that the old one signed is good any more. Its sessions have to log in again."`
	Wait        time.Duration `default:"30s" placeholder:"30s" help:"How long to wait for the new key to sign; 0s: not at all (default: ${default})."`
	JSON        bool          `name:"json" help:"Print the token service's last answer."`
}

// Help says what the flags do not.
func (*keysRotateCmd) Help() string {
	return "The old key signs on until every other region and every token service of this one knows the new one; then the new one takes over by itself, also after this command has ended. A rotation under way is gone on with, not begun again."
}

// Run asks a token service of the region at hand, and watches until the new key signs.
func (c *keysRotateCmd) Run(p *program) error {
	switch {
	case c.Wait < 0:
		return fmt.Errorf("wait %s: want at least 0s", c.Wait)
	case c.Compromised && c.To != "":
		return errors.New("--compromised takes the newest key that the token services hold, or makes one; leave --to out")
	}
	return operateKeys(p, c.natsFlags, func(ctx context.Context, o *keyOperator) error {
		if c.Compromised {
			return o.retireSigning(ctx, p, c.JSON)
		}
		var reply tokens.KeysReply
		if err := o.ask(ctx, tokens.MethodKeysRotate, tokens.RotateRequest{To: c.To, By: self()}, &reply); err != nil {
			return err
		}
		return c.watch(p, o, reply)
	})
}

// watchPause is how often a rotation is looked at.
const watchPause = 500 * time.Millisecond

// watch tells of a rotation's progress until the key signs, the wait is over or the operator goes.
func (c *keysRotateCmd) watch(p *program, o *keyOperator, reply tokens.KeysReply) error {
	kid, old, told := reply.KID, reply.Signing, ""
	fmt.Fprintf(p.stderr, "rotating to %s\n", kid)
	deadline := time.Now().Add(c.Wait)
	for reply.Signing == old && old != kid {
		if now := progress(reply); now != told {
			fmt.Fprintf(p.stderr, "%s: %s\n", kid, now)
			told = now
		}
		if c.Wait == 0 || time.Now().After(deadline) {
			break
		}
		select {
		case <-p.ctx.Done():
			fmt.Fprintf(p.stderr, "interrupted; the rotation goes on by itself, see: berth keys list\n")
			return p.ctx.Err()
		case <-time.After(watchPause):
		}
		ctx, cancel := context.WithTimeout(p.ctx, listTimeout)
		next, err := o.list(ctx)
		cancel()
		switch {
		case err == nil:
			reply = next
			reply.KID = kid
		case p.ctx.Err() == nil:
			fmt.Fprintf(p.stderr, "%s: %v\n", kid, err)
		}
	}
	return c.finish(p, reply, kid, old)
}

// progress says where a rotation stands.
func progress(reply tokens.KeysReply) string {
	if reply.Waiting != nil && reply.Waiting.KID == reply.KID {
		return reply.Waiting.String()
	}
	return "known everywhere, about to sign"
}

func (c *keysRotateCmd) finish(p *program, reply tokens.KeysReply, kid, old string) error {
	if c.JSON {
		if err := printJSON(p, reply); err != nil {
			return err
		}
	}
	if reply.Signing != kid && reply.Signing != old {
		return fmt.Errorf("another rotation came first: %s signs now; see: berth keys list", cmp.Or(reply.Signing, "no key"))
	}
	if reply.Signing != kid && c.Wait > 0 {
		return fmt.Errorf("%s does not sign yet after %s: %s; %s signs on, and the rotation goes on by itself, see: berth keys list",
			kid, c.Wait, progress(reply), cmp.Or(reply.Signing, "no key"))
	}
	if c.JSON {
		return warn(p, reply.Warnings)
	}
	if reply.Signing != kid {
		fmt.Fprintf(p.stdout, "%s will sign once it is known everywhere; see: berth keys list\n", kid)
		return warn(p, reply.Warnings)
	}
	fmt.Fprintf(p.stdout, "%s signs in %s\n", kid, reply.Region)
	for _, k := range reply.Keys {
		if k.KID == old && old != kid {
			fmt.Fprintf(p.stdout, "%s is %s and verifies until %s\n", old, k.State, date(k.VerifiesUntil))
		}
	}
	return warn(p, reply.Warnings)
}

// keysRetireCmd revokes a key.
type keysRetireCmd struct {
	natsFlags
	Key  string `arg:"" help:"Id of the key, as berth keys list shows it."`
	Now  bool   `help:"Required: nothing that the key signed is good any more, and its sessions have to log in again."`
	JSON bool   `name:"json" help:"Print the token service's answer."`
}

// Run asks a token service of the key's region.
func (c *keysRetireCmd) Run(p *program) error {
	if !c.Now {
		return errors.New("a key that was followed by another retires by itself when the last token it signed has expired; to end it, and log its sessions out, at once: --now")
	}
	return operateKeys(p, c.natsFlags, func(ctx context.Context, o *keyOperator) error {
		return o.retire(ctx, p, tokens.RetireRequest{KID: c.Key, By: self()}, c.JSON)
	})
}

// keyOperator is a connection by which a region's token services are asked about keys.
type keyOperator struct{ conn *jetstream.Conn }

// operateKeys connects to a region's NATS for one command. Each question has a deadline of its own.
func operateKeys(p *program, f natsFlags, fn func(context.Context, *keyOperator) error) error {
	conn, err := f.dial(p, "keys")
	if err != nil {
		return err
	}
	defer closeConn(p, conn)
	ctx, cancel := context.WithTimeout(p.ctx, listTimeout)
	defer cancel()
	return fn(ctx, &keyOperator{conn})
}

// ask calls a method of the token services of the region at hand.
func (o *keyOperator) ask(ctx context.Context, method string, request, reply any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	region := o.conn.Region()
	answer, err := o.conn.Call(ctx, service.TokensMethod(events.GlobalJurisdiction, region, method), nil, data)
	var refused *jetstream.ServiceError
	switch {
	case errors.As(err, &refused):
		return errors.New(refused.Description)
	case errors.Is(err, jetstream.ErrNoResponders):
		return fmt.Errorf("no token service of region %s can be reached", region)
	case err != nil:
		return err
	}
	if err := json.Unmarshal(answer.Data, reply); err != nil {
		return fmt.Errorf("read answer of the token service of %s: %w", region, err)
	}
	return nil
}

func (o *keyOperator) list(ctx context.Context) (reply tokens.KeysReply, err error) {
	err = o.ask(ctx, tokens.MethodKeysList, struct{}{}, &reply)
	return reply, err
}

// retireSigning revokes the key that signs. It is named first: asked for once more, "the key that
// signs" would be its successor.
func (o *keyOperator) retireSigning(ctx context.Context, p *program, asJSON bool) error {
	reply, err := o.list(ctx)
	if err != nil {
		return err
	}
	if reply.Signing == "" {
		return fmt.Errorf("no key signs in region %s; make one with: berth keys rotate", reply.Region)
	}
	fmt.Fprintf(p.stderr, "retiring %s\n", reply.Signing)
	if err := o.retire(ctx, p, tokens.RetireRequest{KID: reply.Signing, By: self()}, asJSON); err != nil {
		return fmt.Errorf("%w; to try again: berth keys retire --now %s", err, reply.Signing)
	}
	return nil
}

// retire revokes a key and says what that means.
func (o *keyOperator) retire(ctx context.Context, p *program, q tokens.RetireRequest, asJSON bool) error {
	var reply tokens.KeysReply
	if err := o.ask(ctx, tokens.MethodKeysRetire, q, &reply); err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(p, reply); err != nil {
			return err
		}
		return warn(p, reply.Warnings)
	}
	fmt.Fprintf(p.stdout, "%s is revoked: every token that it signed is refused, and its sessions have to log in again\n", reply.KID)
	if reply.Signing != "" {
		fmt.Fprintf(p.stdout, "%s signs in %s\n", reply.Signing, reply.Region)
	}
	return warn(p, reply.Warnings)
}
