package embedded

import (
	"context"
	"fmt"
	"log/slog"
)

// logger hands the NATS server's warnings and errors to slog. Its notices, a dozen lines a start, are left out.
type logger struct {
	log    *slog.Logger
	server string
	// fatal gets the first reason why the server could not start.
	fatal chan string
}

func (l *logger) Warnf(format string, v ...any)  { l.line("nats server warns", format, v) }
func (l *logger) Errorf(format string, v ...any) { l.line("nats server reports an error", format, v) }

// Fatalf is where a server that cannot start says why; it does not end the process.
func (l *logger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
		l.line("nats server reports an error", format, v)
	}
}

// Noticef, Debugf and Tracef complete server.Logger.
func (*logger) Noticef(string, ...any) {}

// Debugf drops its line.
func (*logger) Debugf(string, ...any) {}

// Tracef drops its line.
func (*logger) Tracef(string, ...any) {}

func (l *logger) line(msg, format string, v []any) {
	l.log.LogAttrs(context.Background(), slog.LevelWarn, msg,
		slog.String("nats_server", l.server), slog.String("line", fmt.Sprintf(format, v...)))
}

func logOrNone(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
