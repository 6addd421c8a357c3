package main

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// Without SIGCHLD, which is ours, and SIGURG, by which Go wakes its own threads.
var forwarded = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGTSTP,
}

// runInit is the container's first process: the kernel gives it every orphan and shields it from signals that it has no
// handler for. It starts the loader, which becomes the program, and ends as that ends; the kernel then ends the rest.
func runInit() *refusal {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded...)
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return refuse(badConfiguration, "the loader cannot start itself: %v", err)
	}
	if refused := keepSecrets(); refused != nil {
		_ = child.Kill()
		return refused
	}
	pid := child.Pid
	go func() {
		for received := range signals {
			if number, ok := received.(syscall.Signal); ok {
				// It may have ended just now; then so do we.
				_ = syscall.Kill(pid, number)
			}
		}
	}()
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return refuse(badConfiguration, "the program was lost: %v", err)
		}
		if ended == pid {
			os.Exit(exitCode(status))
		}
	}
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// keepSecrets: the program runs as the same user, which could read our environment and memory. Not any more.
func keepSecrets() *refusal {
	wipeEnviron()
	const setDumpable = 4
	if _, _, failed := syscall.RawSyscall(syscall.SYS_PRCTL, setDumpable, 0, 0); failed != 0 {
		return refuse(badConfiguration, "the credential cannot be hidden from the program: %v", failed)
	}
	return nil
}

// wipeEnviron overwrites the environment that we were started with, where the kernel shows it from. Where that is forbidden,
// not being dumpable has to do.
func wipeEnviron() {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return
	}
	// The second field is a name, which may hold anything; the fields after it start with the third.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const envStart, envEnd = 50 - 3, 51 - 3
	if len(fields) <= envEnd {
		return
	}
	from, _ := strconv.ParseInt(fields[envStart], 10, 64)
	to, _ := strconv.ParseInt(fields[envEnd], 10, 64)
	memory, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer memory.Close()
	if from > 0 && to > from {
		_, _ = memory.WriteAt(make([]byte, to-from), from)
	}
}
