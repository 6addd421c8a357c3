package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// become replaces this process with the program; it returns only where that failed.
func become(program string, args, environ []string) *refusal {
	if refused := interpreterOf(program, environ); refused != nil {
		return refused
	}
	if err := os.Chdir(home); err != nil {
		return refuse(badConfiguration, "there is no %s to work in: %v", home, err)
	}
	err := syscall.Exec(program, append([]string{program}, args...), environ)
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return refuse(notExecutable, "the build cannot be executed here: it is no program, or one for another system or processor")
	case errors.Is(err, syscall.ENOENT):
		return refuse(notExecutable, "the build needs a dynamic loader that this image does not have: link it statically, or configure an image that has it")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return refuse(notExecutable, "%s may not be executed (%v): mount it without noexec", filepath.Dir(program), err)
	}
	return refuse(notExecutable, "the build cannot be executed: %v", err)
}

// interpreterOf refuses a script whose interpreter is not in the image, in words that say so: the kernel's do not.
func interpreterOf(program string, environ []string) *refusal {
	file, err := os.Open(program)
	if err != nil {
		return refuse(notExecutable, "the build cannot be read: %v", err)
	}
	defer file.Close()
	line, _ := bufio.NewReader(io.LimitReader(file, 512)).ReadString('\n')
	if !strings.HasPrefix(line, "#!") {
		return nil
	}
	words := strings.Fields(line[2:])
	if len(words) == 0 {
		return nil
	}
	missing := words[0]
	if _, err := os.Stat(words[0]); err == nil {
		if filepath.Base(words[0]) != "env" {
			return nil
		}
		var plan envPlan
		rest := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line[2:]), words[0]))
		// The kernel hands over all that follows as one argument.
		if plan, err = readEnv([]string{rest}, environ); err != nil || len(plan.command) == 0 {
			return nil
		}
		if _, found := lookUp(plan.command[0], plan.environ); found {
			return nil
		}
		missing = plan.command[0]
	}
	return refuse(notExecutable, "the build needs %s, which this image does not have; configure an image that has it", missing)
}
