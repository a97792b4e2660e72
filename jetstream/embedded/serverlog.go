package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// logger hands the NATS server's warnings and errors to slog. Its notices, a dozen lines a start, are left out.
type logger struct {
	log    *slog.Logger
	server string
	// open says that nobody has to present anything.
	open bool
	// fatal gets the first reason why the server could not start.
	fatal chan string
}

// Warnf logs what a server goes on after. That passwords should be hashed is no news where there are none.
func (l *logger) Warnf(format string, v ...any) {
	if l.open && strings.HasPrefix(format, "Plaintext passwords") {
		return
	}
	l.line("warning", format, v)
}

// Errorf logs what did not work.
func (l *logger) Errorf(format string, v ...any) { l.line("error", format, v) }

// Fatalf is where a server that cannot start says why; it does not end the process.
func (l *logger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
		l.line("fatal", format, v)
	}
}

// Noticef drops its line.
func (*logger) Noticef(string, ...any) {}

// Debugf drops its line.
func (*logger) Debugf(string, ...any) {}

// Tracef drops its line.
func (*logger) Tracef(string, ...any) {}

func (l *logger) line(kind, format string, v []any) {
	l.log.LogAttrs(context.Background(), slog.LevelWarn, "nats server has something to say",
		slog.String("nats_server", l.server), slog.String("kind", kind), slog.String("line", fmt.Sprintf(format, v...)))
}

func logOrNone(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
