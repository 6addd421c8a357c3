package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// envPlan is what a call of env asks for.
type envPlan struct {
	environ []string
	command []string
}

// runEnv is as much of env(1) as `#!/usr/bin/env` lines use, so that images need no shell and no coreutils.
func runEnv(args, environ []string, stdout, stderr io.Writer) int {
	plan, err := readEnv(args, environ)
	if err != nil {
		fmt.Fprintf(stderr, "env: %v\n", err)
		return 125
	}
	if len(plan.command) == 0 {
		for _, entry := range plan.environ {
			fmt.Fprintln(stdout, entry)
		}
		return 0
	}
	program, found := lookUp(plan.command[0], plan.environ)
	if !found {
		fmt.Fprintf(stderr, "env: %s is not in this image\n", plan.command[0])
		return 127
	}
	err = syscall.Exec(program, plan.command, plan.environ)
	fmt.Fprintf(stderr, "env: %s cannot be executed: %v\n", plan.command[0], err)
	return 126
}

func readEnv(args, environ []string) (envPlan, error) {
	plan := envPlan{environ: environ}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			plan.assign(&args)
			plan.command = args
			return plan, nil
		case arg == "-i" || arg == "-" || arg == "--ignore-environment":
			plan.environ = nil
		case arg == "-u" || arg == "--unset":
			if len(args) == 0 {
				return plan, fmt.Errorf("%s needs a name", arg)
			}
			plan.unset(args[0])
			args = args[1:]
		case strings.HasPrefix(arg, "--unset="):
			plan.unset(strings.TrimPrefix(arg, "--unset="))
		case strings.HasPrefix(arg, "-S") || strings.HasPrefix(arg, "--split-string="):
			text := strings.TrimPrefix(strings.TrimPrefix(arg, "-S"), "--split-string=")
			if text == "" && len(args) > 0 {
				text, args = args[0], args[1:]
			}
			words, err := split(text)
			if err != nil {
				return plan, err
			}
			args = append(words, args...)
		case strings.HasPrefix(arg, "-"):
			return plan, fmt.Errorf("this env does not know %s", arg)
		default:
			args = append([]string{arg}, args...)
			plan.assign(&args)
			plan.command = args
			return plan, nil
		}
	}
	return plan, nil
}

// assign takes the NAME=VALUE words at the front.
func (p *envPlan) assign(args *[]string) {
	for len(*args) > 0 {
		name, _, found := strings.Cut((*args)[0], "=")
		if !found || name == "" {
			return
		}
		p.unset(name)
		p.environ = append(p.environ, (*args)[0])
		*args = (*args)[1:]
	}
}

func (p *envPlan) unset(name string) {
	kept := make([]string, 0, len(p.environ)+1)
	for _, entry := range p.environ {
		if !strings.HasPrefix(entry, name+"=") {
			kept = append(kept, entry)
		}
	}
	p.environ = kept
}

// split cuts the text of -S into words, with quotes and backslashes as a shell has them.
func split(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inside, escaped := false, false
	for _, r := range text {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			inside, escaped = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			inside, quote = true, r
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if inside {
				words = append(words, word.String())
				word.Reset()
			}
			inside = false
		default:
			inside = true
			word.WriteRune(r)
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("-S %s: a quote is not closed", text)
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}

// lookUp finds a program on $PATH. (os/exec would look on our own instead of the one that env is told.)
func lookUp(name string, environ []string) (string, bool) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	path := valueOf(environ, "PATH")
	if path == "" {
		path = defaultPath
	}
	for _, folder := range filepath.SplitList(path) {
		if candidate := filepath.Join(folder, name); filepath.IsAbs(candidate) && executable(candidate) {
			return candidate, true
		}
	}
	return "", false
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
