package main

import (
	"fmt"
	"strings"
)

// Exit codes of a loader that never came to the program; whoever started the container acts on them.
const (
	badConfiguration  = 90
	credentialRefused = 91
	buildNotFound     = 92
	buildAltered      = 93
	wrongSize         = 94
	serverAway        = 95
	notExecutable     = 96
	scratchFull       = 97
	buildDamaged      = 98
)

// A refusal is why there is no program: an exit code, and in one line what happened and what to do.
type refusal struct {
	code  int
	words string
}

func (r *refusal) Error() string { return r.words }

func refuse(code int, format string, values ...any) *refusal {
	return &refusal{code: code, words: strings.Join(strings.Fields(fmt.Sprintf(format, values...)), " ")}
}
