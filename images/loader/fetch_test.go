package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var build = func() []byte {
	bytes := make([]byte, 3<<20)
	rand.New(rand.NewSource(1)).Read(bytes)
	return bytes
}()

const etag = `"sha256:1"`

// A clock that sleeping moves.
type fakeClock struct {
	now    time.Time
	pauses []time.Duration
}

func (c *fakeClock) sleep(pause time.Duration) {
	c.pauses = append(c.pauses, pause)
	c.now = c.now.Add(pause)
}

type result struct {
	*refusal
	bytes    []byte
	requests []*http.Request
	pauses   []time.Duration
	notes    string
}

// run fetches the build from a server that answers its nth request (from 1) as told.
func run(t *testing.T, timeout time.Duration, answer func(n int, w http.ResponseWriter, r *http.Request)) result {
	t.Helper()
	var out result
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out.requests = append(out.requests, r)
		answer(len(out.requests), w, r)
	}))
	defer server.Close()
	server.Config.ErrorLog = nil
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	sum := sha256.Sum256(build)
	c := config{url: server.URL + "/builds/a/b?revision=1", host: "server", token: "secret", namespace: "ns", ca: pool,
		sha256: hex.EncodeToString(sum[:]), size: int64(len(build)), timeout: timeout}
	clock := &fakeClock{now: time.Now()}
	var notes strings.Builder
	f := newFetcher(c, &notes)
	f.now, f.sleep, f.random = func() time.Time { return clock.now }, clock.sleep, func() float64 { return 1 }
	file, refused := openScratch(t.TempDir())
	if refused != nil {
		t.Fatal(refused)
	}
	out.refusal = f.fetch(file)
	out.pauses, out.notes = clock.pauses, notes.String()
	if out.refusal == nil {
		path, refused := file.seal()
		if refused != nil {
			t.Fatal(refused)
		}
		info, _ := os.Stat(path)
		if info.Mode().Perm() != 0o500 {
			t.Errorf("mode %o", info.Mode().Perm())
		}
		out.bytes, _ = os.ReadFile(path)
		if !bytes.Equal(out.bytes, build) {
			t.Error("other bytes than the server's")
		}
	}
	return out
}

func whole(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(build))
}

// cut promises all and sends a part.
func cut(w http.ResponseWriter, part int) {
	w.Header().Set("ETag", etag)
	w.Header().Set("Content-Length", fmt.Sprint(len(build)))
	w.Write(build[:part])
	panic(http.ErrAbortHandler)
}

func (r result) must(t *testing.T, code int, words string) {
	t.Helper()
	if r.refusal == nil || r.code != code || !strings.Contains(r.words, words) {
		t.Errorf("got %+v, want %d with %q", r.refusal, code, words)
	}
}

func TestLoads(t *testing.T) {
	r := run(t, time.Minute, func(_ int, w http.ResponseWriter, r *http.Request) { whole(w, r) })
	if r.refusal != nil || len(r.requests) != 1 {
		t.Fatal(r.refusal, len(r.requests))
	}
	if r.notes != "" {
		t.Error(r.notes)
	}
	header := r.requests[0].Header
	if header.Get("Authorization") != "Bearer secret" || header.Get("Runtime-Namespace") != "ns" || header.Get("Range") != "" {
		t.Error(header)
	}
}

func TestResumes(t *testing.T) {
	r := run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			cut(w, 1<<20)
		}
		whole(w, r)
	})
	if r.refusal != nil || len(r.requests) != 2 {
		t.Fatal(r.refusal, len(r.requests))
	}
	if header := r.requests[1].Header; header.Get("Range") != "bytes=1048576-" || header.Get("If-Range") != etag {
		t.Error(header)
	}
}

// Whoever reads the last line must not take a program that says nothing for one that was never loaded.
func TestTheEndOfWhatWasNotedIsSaid(t *testing.T) {
	r := run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			cut(w, 1<<20)
		}
		whole(w, r)
	})
	if r.refusal != nil || r.notes != "runtime-loader: the connection was cut; trying again\nruntime-loader: the build is loaded\n" {
		t.Error(r.refusal, r.notes)
	}
	slow := run(t, time.Nanosecond, func(_ int, w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	if slow.refusal == nil || strings.Contains(slow.notes, "is loaded") {
		t.Error(slow.refusal, slow.notes)
	}
}

func TestStartsOverWhereRangesAreIgnoredOrTheBuildIsAnother(t *testing.T) {
	r := run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			w.Header().Set("ETag", `"older"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(build)))
			w.Write(make([]byte, 1<<20))
			panic(http.ErrAbortHandler)
		}
		whole(w, r)
	})
	if r.refusal != nil || len(r.requests) != 2 {
		t.Fatal(r.refusal, len(r.requests))
	}
	r = run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			cut(w, 1<<20)
		}
		if n == 2 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-%d/%d", len(build)-1, len(build)))
			w.WriteHeader(206)
			w.Write(build[5:])
			return
		}
		whole(w, r)
	})
	if r.refusal != nil || len(r.requests) != 3 || r.requests[2].Header.Get("Range") != "" {
		t.Fatal(r.refusal, len(r.requests))
	}
}

func TestPiecesThatDoNotBelongTogetherAreFetchedOnceMore(t *testing.T) {
	r := run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Length", fmt.Sprint(len(build)))
			w.Write(make([]byte, 1<<20))
			panic(http.ErrAbortHandler)
		}
		whole(w, r)
	})
	if r.refusal != nil || len(r.requests) != 3 {
		t.Fatal(r.refusal, len(r.requests))
	}
}

func TestRefuses(t *testing.T) {
	for status, code := range map[int]int{
		401: credentialRefused, 403: credentialRefused, 404: buildNotFound, 410: buildNotFound,
		301: badConfiguration, 307: badConfiguration, 304: badConfiguration, 400: badConfiguration, 204: badConfiguration,
	} {
		r := run(t, time.Minute, func(_ int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		})
		r.must(t, code, fmt.Sprint(status))
		if len(r.requests) != 1 {
			t.Errorf("%d: %d requests", status, len(r.requests))
		}
	}
	altered := append([]byte{build[0] ^ 1}, build[1:]...)
	run(t, time.Minute, func(_ int, w http.ResponseWriter, r *http.Request) { w.Write(altered) }).must(t, buildAltered, "altered")
	run(t, time.Minute, func(_ int, w http.ResponseWriter, r *http.Request) { w.Write(build[:1000]) }).must(t, wrongSize, "1000 bytes")
	chunked := func(part []byte) func(int, http.ResponseWriter, *http.Request) {
		return func(_ int, w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(part)
		}
	}
	run(t, time.Minute, chunked(build[:1<<20])).must(t, wrongSize, "truncated")
	run(t, time.Minute, chunked(append(build[:len(build):len(build)], 1))).must(t, wrongSize, "more than")
	always := run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			cut(w, 1<<20)
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 1<<20, len(build)-1, len(build)))
		w.Header().Set("Content-Length", fmt.Sprint(len(build)-1<<20))
		w.WriteHeader(206)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	always.must(t, wrongSize, "truncated")
	if len(always.requests) > mostCuts+1 {
		t.Error(len(always.requests))
	}
}

func TestWaitsForTheServer(t *testing.T) {
	r := run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n <= 3 {
			w.WriteHeader([]int{502, 429, 503}[n-1])
			return
		}
		whole(w, r)
	})
	if r.refusal != nil || fmt.Sprint(r.pauses) != "[100ms 200ms 400ms]" {
		t.Fatal(r.refusal, r.pauses)
	}
	r = run(t, time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
			return
		}
		whole(w, r)
	})
	if r.refusal != nil || fmt.Sprint(r.pauses) != "[7s]" {
		t.Fatal(r.refusal, r.pauses)
	}
	r = run(t, 20*time.Second, func(_ int, w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	r.must(t, serverAway, "within 20s (0 of 3145728 bytes): the server answered 503")
	if last := r.pauses[len(r.pauses)-2]; last > longestPause {
		t.Error(r.pauses)
	}
}

func TestAStalledConnectionIsGivenUp(t *testing.T) {
	held := make(chan struct{})
	r := run(t, 3*time.Second, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Length", fmt.Sprint(len(build)))
			w.Write(build[:1<<20])
			w.(http.Flusher).Flush()
			<-held
			return
		}
		close(held)
		whole(w, r)
	})
	if r.refusal != nil || len(r.requests) != 2 || r.requests[1].Header.Get("Range") == "" {
		t.Fatal(r.refusal, len(r.requests))
	}
}

func TestAFullScratch(t *testing.T) {
	file, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	_, err = (&scratch{file: file, digest: sha256.New()}).Write(build)
	refused, ok := err.(*refusal)
	if !ok || refused.code != scratchFull {
		t.Error(err)
	}
	if _, refused := openScratch(filepath.Join(t.TempDir(), "none")); refused == nil || refused.code != badConfiguration {
		t.Error(refused)
	}
}

func TestRefusesADamagedBuildAtOnce(t *testing.T) {
	problem := func(kind, body string) func(int, http.ResponseWriter, *http.Request) {
		return func(_ int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(500)
			w.Write([]byte(body))
		}
	}
	const kind = "application/problem+json; charset=utf-8"
	r := run(t, time.Minute, problem(kind, `{"status":500,"code":"damaged"}`))
	r.must(t, buildDamaged, "the server stored is damaged; update the service")
	if len(r.requests) != 1 {
		t.Errorf("%d requests", len(r.requests))
	}
	for body, kind := range map[string]string{
		`{"status":500,"code":"internal"}`: kind, `{"code":"damaged"}`: "text/html", `{"code":`: kind,
		`{"x":"` + strings.Repeat("x", problemLimit) + `","code":"damaged"}`: kind,
	} {
		r := run(t, 5*time.Second, problem(kind, body))
		r.must(t, serverAway, "the server answered 500")
		if len(r.requests) < 3 {
			t.Errorf("%.40s: %d requests", body, len(r.requests))
		}
	}
}

func TestAProblemThatStallsIsGivenUp(t *testing.T) {
	held := make(chan struct{})
	r := run(t, 3*time.Second, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
			<-held
			return
		}
		close(held)
		whole(w, r)
	})
	if r.refusal != nil || len(r.requests) != 2 {
		t.Fatal(r.refusal, len(r.requests))
	}
}

func TestSaysThatNobodyWasThere(t *testing.T) {
	unreachable := net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		err     error
		reached bool
	}{{&unreachable, false}, {os.ErrDeadlineExceeded, false}, {&tls.CertificateVerificationError{Err: io.EOF}, true}} {
		f := newFetcher(config{url: "https://192.0.2.1:7/builds/a/b?revision=1", host: "192.0.2.1:7", size: 1, timeout: 3 * time.Second}, io.Discard)
		clock := &fakeClock{now: time.Now()}
		f.now, f.sleep = func() time.Time { return clock.now }, clock.sleep
		f.client.Transport = failing{c.err}
		file, _ := openScratch(t.TempDir())
		refused := f.fetch(file)
		says := strings.Contains(refused.words, "could not be reached from this container at https://192.0.2.1:7 within 3s")
		if refused.code != serverAway || says == c.reached || f.reached != c.reached {
			t.Error(refused)
		}
		if !c.reached && (!strings.Contains(refused.words, "firewall") || !strings.Contains(refused.words, "RUNTIME_LOADER_URL")) {
			t.Error(refused)
		}
	}
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }
