package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

const (
	scratchFolder = "/run/runtime"
	programName   = "program"
)

// A scratch is the file that a build is written to, with the digest of what it holds so far.
type scratch struct {
	file     *os.File
	digest   hash.Hash
	received int64
}

func openScratch(folder string) (*scratch, *refusal) {
	path := filepath.Join(folder, programName)
	// What an earlier start left in a container that was started again cannot be opened for writing.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, notWritable(path, err)
	}
	// Go opens everything close-on-exec: the program inherits none of it.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, notWritable(path, err)
	}
	return &scratch{file: file, digest: sha256.New()}, nil
}

func (s *scratch) Write(bytes []byte) (int, error) {
	written, err := s.file.Write(bytes)
	s.digest.Write(bytes[:written])
	s.received += int64(written)
	if err != nil {
		return written, notWritable(s.file.Name(), err)
	}
	return written, nil
}

// startOver forgets what was received.
func (s *scratch) startOver() error {
	if s.received == 0 {
		return nil
	}
	s.digest.Reset()
	s.received = 0
	if err := s.file.Truncate(0); err != nil {
		return notWritable(s.file.Name(), err)
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return notWritable(s.file.Name(), err)
	}
	return nil
}

func (s *scratch) sum() string { return hex.EncodeToString(s.digest.Sum(nil)) }

// seal closes the file, which nobody could execute while it is open for writing, and returns its path.
func (s *scratch) seal() (string, *refusal) {
	path := s.file.Name()
	if err := s.file.Chmod(0o500); err != nil {
		return "", notWritable(path, err)
	}
	if err := s.file.Close(); err != nil {
		return "", notWritable(path, err)
	}
	return path, nil
}

func notWritable(path string, err error) *refusal {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return refuse(scratchFull, "%s is full; mount more memory there than the build has bytes", filepath.Dir(path))
	}
	return refuse(badConfiguration, "the build cannot be written: %v; mount a tmpfs at %s that user %d may write to", err, filepath.Dir(path), os.Getuid())
}
