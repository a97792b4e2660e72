//go:build unix

package dev

import "syscall"

// ownGroup keeps a terminal's Ctrl-C from the children: the parent stops them in its order.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
