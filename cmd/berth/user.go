package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/berthhq/berth/tokens"
)

// userCmd groups the commands of the users file.
type userCmd struct {
	Hash userHashCmd `cmd:"" help:"Read a password from standard input and print the user's entry of a users file."`
}

type userHashCmd struct {
	Username string `arg:"" help:"Name of the user."`
	Org      string `help:"Organization of the user."`
	Scope    string `help:"Scopes of the user's tokens, separated by spaces."`
}

// Run prints the entry. The password is no argument, for arguments can be seen by others.
func (c *userHashCmd) Run(p *program) error {
	line, err := bufio.NewReader(p.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if password == "" {
		return fmt.Errorf("read password: standard input is empty; try: echo 'the password' | berth user hash %s", c.Username)
	}
	hash, err := tokens.HashPassword(password)
	if err != nil {
		return err
	}
	user := tokens.User{Username: c.Username, PasswordHash: hash, Org: c.Org, Scope: c.Scope}
	if _, err := tokens.NewUsers([]tokens.User{user}); err != nil {
		return err
	}
	entry, err := yaml.Marshal(map[string]any{"users": []tokens.User{user}})
	if err != nil {
		return fmt.Errorf("encode user: %w", err)
	}
	_, err = p.stdout.Write(entry)
	return err
}
