// Command berth runs and operates a fleet that locks each client of a multi-region API to
// one regional server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the tree of commands.
type cli struct {
	Dev      devCmd      `cmd:"" help:"Run a whole fleet on this machine: NATS, registries, token services, demo servers."`
	Registry registryCmd `cmd:"" help:"Run a region's registry."`
	Tokens   tokensCmd   `cmd:"" help:"Run a region's token service."`
	Agent    agentCmd    `cmd:"" help:"Run berth beside an application in any language."`
	Servers  serversCmd  `cmd:"" help:"List the servers as a region's registry sees them."`
	Region   regionCmd   `cmd:"" help:"List the regions; set how they take sessions."`
	Drain    drainCmd    `cmd:"" help:"Have sessions leave a server or a region."`
	Undrain  undrainCmd  `cmd:"" help:"Have a server or a region take sessions again."`
	Sessions sessionsCmd `cmd:"" help:"List sessions, show one, end them in every region."`
	Policy   policyCmd   `cmd:"" help:"Show, check and change the policy by which sessions are placed."`
	Org      orgCmd      `cmd:"" help:"Set what holds for an organization; show one, list them."`
	Events   eventsCmd   `cmd:"" help:"Print events as they happen."`
	Keys     keysCmd     `cmd:"" help:"Make, list, rotate and end signing keys."`
	User     userCmd     `cmd:"" help:"Make entries of a users file."`
	Demo     demoCmd     `cmd:"" help:"Run a demo regional server, as berth dev does."`
	Simulate simulateCmd `cmd:"" help:"Ask what placement policies would do to a fleet."`
	Replay   replayCmd   `cmd:"" help:"Make recorded decisions again, by the policy that made them or another."`
	Bench    benchCmd    `cmd:"" help:"Measure, each figure beside its floor."`
	Version  versionCmd  `cmd:"" help:"Print the version."`

	Telemetry telemetryCmd `cmd:"" help:"Report servers' load from a central telemetry system to a region's registry."`

	Config  kong.ConfigFlag `placeholder:"FILE" help:"Read settings from a YAML file; flags and BERTH_… variables go before it."`
	Verbose bool            `short:"v" help:"Log what goes well, too."`
}

// program is what every command gets: the streams to use instead of the process's own.
type program struct {
	ctx            context.Context // a command lives as long as this
	stdout, stderr io.Writer
	stdin          io.Reader
	log            *slog.Logger
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run parses args, runs the command and returns the exit code: 0, 1 for a fault, 2 for a
// wrong call. A fault is one line on stderr.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c,
		kong.Name("berth"), kong.Description("Locks each client of a multi-region API to one regional server, and moves it only when that is safe."),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { exit = code }),
		kong.Configuration(loadSettings), kong.DefaultEnvars("BERTH"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		fmt.Fprintf(stderr, "berth: %v\n", err)
		return 1
	}
	parsed, err := parser.Parse(args)
	if exit >= 0 { // --help
		return exit
	}
	if err != nil {
		fmt.Fprintf(stderr, "berth: %v; see: %s\n", err, helpFor(err))
		return 2
	}
	level := slog.LevelWarn
	if c.Verbose {
		level = slog.LevelInfo
	}
	p := &program{
		ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr,
		log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})),
	}
	if err := parsed.Run(p); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(stderr, "berth: %v\n", err)
		return 1
	}
	return 0
}

// helpFor returns the command that explains what a wrong call should have been.
func helpFor(err error) string {
	var wrong *kong.ParseError
	if errors.As(err, &wrong) && wrong.Context != nil && wrong.Context.Selected() != nil {
		node := wrong.Context.Selected()
		if node.Parent != nil && node.Parent.DefaultCmd == node { // perhaps nobody named it
			node = node.Parent
		}
		return "berth " + node.Path() + " --help"
	}
	return "berth --help"
}
