//go:build !unix

package dev

import "syscall"

// ownGroup has no counterpart here.
func ownGroup() *syscall.SysProcAttr { return nil }
