// Package berth keeps every client session at exactly one regional server, and moves it only when that is safe.
//
// This package itself is empty. The parts live in the folders beside it: events and tokens/api are the wire, placement,
// registry and sessions decide, jetstream makes it durable, sdk is for programs that join a fleet, and cmd/berth is the
// command that runs one.
package berth
