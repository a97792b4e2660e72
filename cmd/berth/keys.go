package main

import (
	"fmt"

	"github.com/berthhq/berth/tokens"
)

// keysCmd groups the commands of signing keys.
type keysCmd struct {
	Generate keysGenerateCmd `cmd:"" help:"Write a new Ed25519 signing key to a file that only its owner may read."`
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
