// Command runtime-loader is what runs first inside a container: it fetches a build, sees that it is the one that was meant,
// and becomes it. As the container's first process it is also its init; called as `env` it is /usr/bin/env.
// README.md in the folder above says how it is configured.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
)

func main() {
	if filepath.Base(os.Args[0]) == "env" {
		os.Exit(runEnv(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
	}
	// The container's limit holds for its program; neither half of the loader has much to remember.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(32 << 20)
	var refused *refusal
	if os.Getpid() == 1 {
		refused = runInit()
	} else {
		refused = load(os.Environ(), os.Args[1:])
	}
	// Neither half comes back but to say why it could not.
	fmt.Fprintf(os.Stderr, "runtime-loader: %s\n", refused.words)
	os.Exit(refused.code)
}

// load turns this process into the program; it returns only where that was refused.
func load(environ, args []string) *refusal {
	config, refused := readConfig(environ)
	if refused != nil {
		return refused
	}
	if os.Getuid() == 0 {
		return refuse(badConfiguration, "it runs as root; start the container with the user 65532:65532")
	}
	file, refused := openScratch(scratchFolder)
	if refused != nil {
		return refused
	}
	if refused = newFetcher(config, os.Stderr).fetch(file); refused != nil {
		return refused
	}
	program, refused := file.seal()
	if refused != nil {
		return refused
	}
	return become(program, args, cleaned(environ))
}
