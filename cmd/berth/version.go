package main

import (
	"fmt"
	"runtime/debug"

	"github.com/berthhq/berth/events"
)

// versionCmd prints what this build is.
type versionCmd struct{}

// Run prints the module's version, the wire version and the commit.
func (c *versionCmd) Run(p *program) error {
	version, revision := "devel", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := info.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				revision = " " + s.Value[:12]
			}
		}
	}
	_, err := fmt.Fprintf(p.stdout, "berth %s%s, wire version %d\n", version, revision, events.Version)
	return err
}
