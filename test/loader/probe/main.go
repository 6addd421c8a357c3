// A program for the loader's tests: says what it sees, and ends as it is told.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	mode := ""
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "signal":
		number, _ := strconv.Atoi(os.Args[2])
		syscall.Kill(os.Getpid(), syscall.Signal(number))
		time.Sleep(time.Minute)
	case "catch":
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGHUP)
		fmt.Println("ready")
		for received := range signals {
			fmt.Println(received)
			if received == syscall.SIGTERM {
				os.Exit(7)
			}
		}
	case "wait":
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "orphan":
		// The parent of the last one ends at once.
		if len(os.Args) > 2 {
			for i := 0; i < 5; i++ {
				exec.Command("/proc/self/exe", "exit", "0").Start()
			}
			return
		}
		exec.Command("/proc/self/exe", "orphan", "makes them").Run()
		// Found alive or dead, but not for long.
		for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			if len(processes()) == 2 {
				fmt.Println("all reaped")
				return
			}
		}
		fmt.Println(processes())
		os.Exit(1)
	default:
		report()
	}
}

func processes() []string {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var found []string
	for _, file := range stats {
		if text, err := os.ReadFile(file); err == nil {
			found = append(found, strings.Join(strings.Fields(string(text))[:4], " "))
		}
	}
	return found
}

func report() {
	environ, _ := os.ReadFile("/proc/self/environ")
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var lines []string
	for _, file := range commands {
		text, _ := os.ReadFile(file)
		lines = append(lines, strings.ReplaceAll(string(text), "\x00", " "))
	}
	descriptors := map[string]string{}
	links, _ := os.ReadDir("/proc/self/fd")
	for _, link := range links {
		if target, err := os.Readlink("/proc/self/fd/" + link.Name()); err == nil {
			descriptors[link.Name()] = target
		}
	}
	says := func(err error) string {
		if err == nil {
			return "allowed"
		}
		return err.Error()
	}
	_, ofInit := os.ReadFile("/proc/1/environ")
	_, memory := os.OpenFile("/proc/1/mem", os.O_RDONLY, 0)
	folder, _ := os.Getwd()
	status, _ := os.ReadFile("/proc/self/status")
	info, _ := os.Stat(os.Args[0])
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"args": os.Args, "environ": strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00"), "commands": lines,
		"descriptors": descriptors, "initEnviron": says(ofInit), "initMemory": says(memory), "folder": folder,
		"user": os.Getuid(), "group": os.Getgid(), "mode": fmt.Sprintf("%o", info.Mode().Perm()), "status": string(status),
		"root": says(os.WriteFile("/written", nil, 0o600)), "tmp": says(os.WriteFile("/tmp/written", nil, 0o600)),
	})
}
