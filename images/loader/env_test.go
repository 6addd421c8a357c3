package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestEnv(t *testing.T) {
	environ := []string{"A=1", "B=2"}
	for _, c := range []struct{ args, environ, command []string }{
		{[]string{"node", "-x"}, environ, []string{"node", "-x"}},
		{[]string{"-S node --enable-source-maps", "/file", "a b"}, environ, []string{"node", "--enable-source-maps", "/file", "a b"}},
		{[]string{"-S", `X=1 node 'a b' "c\"d" e\ f ''`}, []string{"A=1", "B=2", "X=1"}, []string{"node", "a b", `c"d`, "e f", ""}},
		{[]string{"-i", "A=3", "node"}, []string{"A=3"}, []string{"node"}},
		{[]string{"-u", "A", "--unset=B", "--", "A=4", "node"}, []string{"A=4"}, []string{"node"}},
		{nil, environ, nil},
	} {
		plan, err := readEnv(c.args, environ)
		if err != nil || strings.Join(plan.environ, "\n") != strings.Join(c.environ, "\n") || !reflect.DeepEqual(append([]string{}, plan.command...), append([]string{}, c.command...)) {
			t.Errorf("%q: %q %v", c.args, plan, err)
		}
	}
	for _, args := range [][]string{{"-S", "'a"}, {"-x"}, {"-u"}} {
		if _, err := readEnv(args, environ); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	if code := runEnv([]string{"nothing-of-this-name"}, []string{"PATH=" + t.TempDir()}, os.Stdout, &strings.Builder{}); code != 127 {
		t.Error(code)
	}
}

func TestScriptsWhoseInterpreterIsMissing(t *testing.T) {
	folder := t.TempDir()
	for text, missing := range map[string]string{
		"#!/usr/bin/env no-such-node\n":           "no-such-node",
		"#!/usr/bin/env -S no-such-node --flag\n": "no-such-node",
		"#!/no/such/interpreter -x\n":             "/no/such/interpreter",
		"#! /bin/sh\n":                            "",
		"#!/usr/bin/env sh\nno-such-node":         "",
		"\x7fELF":                                 "",
	} {
		file := filepath.Join(folder, "script")
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		refused := interpreterOf(file, os.Environ())
		if missing == "" && refused != nil || missing != "" && (refused == nil || refused.code != notExecutable || !strings.Contains(refused.words, missing+",")) {
			t.Errorf("%q: %v", text, refused)
		}
	}
}
