package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	connectLimit = 5 * time.Second
	stallLimit   = 10 * time.Second
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	longestWish  = 30 * time.Second
	// Besides the timeout, which starts again with each byte, the whole may take as long as a very slow line would.
	slowestBytesPerSecond = 32 << 10
	// So many answers that end at the same byte are no accident.
	mostCuts   = 6
	bufferSize = 128 << 10
	// No problem has more words.
	problemLimit = 64 << 10
)

// A fetcher gets one build over HTTPS, however often the connection breaks.
type fetcher struct {
	config config
	client *http.Client
	notes  io.Writer
	stall  time.Duration
	now    func() time.Time
	sleep  func(time.Duration)
	random func() float64

	// Strong validator of what the scratch holds; empty where it cannot be gone on with.
	etag string
	// Whether it was said that loading takes long; then its end is said, too.
	noted bool
	// When that is said of a server that is slow.
	slowAt time.Time
	// Whether anybody was there: what to look at where nobody ever was is another thing.
	reached bool
	// How many answers the scratch was put together from.
	pieces int
	buffer []byte
}

// A trouble is what another attempt may mend.
type trouble struct {
	words string
	// The server's wish, 0 without.
	retryAfter time.Duration
	// The answer began and ended early.
	cut bool
}

func (t *trouble) Error() string { return t.words }

func newFetcher(c config, notes io.Writer) *fetcher {
	stall := stallLimit
	if third := c.timeout / 3; third < stall {
		stall = third
	}
	connect := connectLimit
	if stall < connect {
		connect = stall
	}
	return &fetcher{
		config: c,
		notes:  notes,
		stall:  stall,
		now:    time.Now,
		sleep:  time.Sleep,
		random: rand.Float64,
		buffer: make([]byte, bufferSize),
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                  nil,
				DialContext:            (&net.Dialer{Timeout: connect}).DialContext,
				TLSClientConfig:        &tls.Config{RootCAs: c.ca, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    connect,
				ResponseHeaderTimeout:  stall,
				MaxResponseHeaderBytes: 64 << 10,
				DisableCompression:     true,
				DisableKeepAlives:      true,
				ReadBufferSize:         64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// fetch fills the scratch with the build; it returns nil where size and digest are right.
func (f *fetcher) fetch(into *scratch) *refusal {
	began := f.now()
	lastByte := began
	longest := f.config.timeout + time.Duration(f.config.size/slowestBytesPerSecond)*time.Second
	var most int64
	f.slowAt = began.Add(f.config.timeout / 2)
	failures, cuts, noted, again := 0, 0, "", false
	for {
		err := f.attempt(into, began.Add(longest))
		if err == nil {
			if into.sum() == f.config.sha256 {
				if f.noted {
					fmt.Fprintln(f.notes, "runtime-loader: the build is loaded")
				}
				return nil
			}
			// One answer's fault is the build's; several may just not have belonged together.
			if f.pieces == 1 || again {
				return refuse(buildAltered, "the build was altered: its sha256 is %s and should be %s; build it again", into.sum(), f.config.sha256)
			}
			again, f.etag, most = true, "", 0
			continue
		}
		var refused *refusal
		if errors.As(err, &refused) {
			return refused
		}
		var failed *trouble
		if !errors.As(err, &failed) {
			failed = &trouble{words: err.Error()}
		}
		now := f.now()
		failures++
		if into.received > most {
			most, lastByte, failures, cuts = into.received, now, 1, 0
		}
		if failed.cut {
			cuts++
		}
		if cuts >= mostCuts {
			return refuse(wrongSize, "the build is truncated: the server sends %d of its %d bytes; build it again", most, f.config.size)
		}
		left := f.config.timeout - now.Sub(lastByte)
		if total := longest - now.Sub(began); total < left {
			left = total
		}
		if left <= 0 && !f.reached {
			return refuse(serverAway, "the server could not be reached from this container at https://%s within %s: %s; see that it runs, that no firewall on its machine keeps containers out, and that RUNTIME_LOADER_URL in its settings, where given, is a URL that containers reach",
				f.config.host, now.Sub(began).Round(time.Second), failed.words)
		}
		if left <= 0 {
			return refuse(serverAway, "the build could not be loaded within %s (%d of %d bytes): %s; see that the server runs and that containers reach it",
				now.Sub(began).Round(time.Second), into.received, f.config.size, failed.words)
		}
		if failed.words != noted {
			fmt.Fprintf(f.notes, "runtime-loader: %s; trying again\n", failed.words)
			noted, f.noted = failed.words, true
		}
		f.sleep(f.pause(failures, failed.retryAfter, left))
	}
}

// pause grows with each failure, with jitter so that the containers of a server that comes back do not all ask at once.
func (f *fetcher) pause(failures int, wish, left time.Duration) time.Duration {
	pause := longestPause
	if failures < 7 {
		pause = firstPause << (failures - 1)
	}
	if pause > longestPause {
		pause = longestPause
	}
	pause = pause/2 + time.Duration(f.random()*float64(pause/2))
	if wish > longestWish {
		wish = longestWish
	}
	if wish > pause {
		pause = wish
	}
	if pause > left {
		pause = left
	}
	return pause
}

func (f *fetcher) attempt(into *scratch, until time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.config.url, nil)
	if err != nil {
		return refuse(badConfiguration, "%sURL cannot be asked: %v", prefix, err)
	}
	request.Header.Set("Authorization", "Bearer "+f.config.token)
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "runtime-loader")
	if f.config.namespace != "" {
		request.Header.Set("Runtime-Namespace", f.config.namespace)
	}
	ranged := into.received > 0 && into.received < f.config.size && f.etag != ""
	if ranged {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", into.received))
		request.Header.Set("If-Range", f.etag)
	}
	response, err := f.client.Do(request)
	if err != nil {
		words, reached := reason(err, f.config.host)
		f.reached = f.reached || reached
		return &trouble{words: words}
	}
	defer response.Body.Close()
	f.reached = true
	// A connection without bytes is given up after a while.
	watch := time.AfterFunc(f.stall, cancel)
	defer watch.Stop()
	if err := f.judge(response, into, ranged); err != nil {
		return err
	}
	return f.receive(response, into, watch)
}

// judge says whether the body is (the rest of) the build.
func (f *fetcher) judge(response *http.Response, into *scratch, ranged bool) error {
	code := response.StatusCode
	switch {
	case code == http.StatusOK:
		f.etag, f.pieces = strong(response.Header.Get("ETag")), 1
		if response.ContentLength >= 0 && response.ContentLength != f.config.size {
			return refuse(wrongSize, "the build has the wrong size: the server has %d bytes of it and it should be %d; build it again", response.ContentLength, f.config.size)
		}
		return into.startOver()
	case code == http.StatusPartialContent && ranged && response.Header.Get("Content-Range") == fmt.Sprintf("bytes %d-%d/%d", into.received, f.config.size-1, f.config.size):
		f.pieces++
		return nil
	case code == http.StatusPartialContent || code == http.StatusRequestedRangeNotSatisfiable:
		f.etag = ""
		return &trouble{words: "the server answered with another part of the build"}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return refuse(credentialRefused, "the server refused the credential (%d): it is for one revision only and ends with it; update or restart the service", code)
	case code == http.StatusNotFound || code == http.StatusGone:
		return refuse(buildNotFound, "the server does not have the build (%d); update the service to build it again", code)
	case code == http.StatusInternalServerError && problemCode(response) == "damaged":
		return refuse(buildDamaged, "the build that the server stored is damaged; update the service to build it again, or roll it back")
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests || code >= 500:
		return &trouble{words: fmt.Sprintf("the server answered %d", code), retryAfter: f.wish(response.Header.Get("Retry-After"))}
	case code >= 300 && code < 400:
		return refuse(badConfiguration, "the server answered with a redirect (%d), which is not followed; set the loader's URL to the server itself", code)
	}
	return refuse(badConfiguration, "the server refused the request (%d); see that the loader's URL is a build's", code)
}

// receive reads the body to its end.
func (f *fetcher) receive(response *http.Response, into *scratch, watch *time.Timer) error {
	for {
		count, err := response.Body.Read(f.buffer)
		watch.Reset(f.stall)
		if into.received+int64(count) > f.config.size {
			return refuse(wrongSize, "the build has the wrong size: the server sends more than its %d bytes; build it again", f.config.size)
		}
		if count > 0 {
			if _, failed := into.Write(f.buffer[:count]); failed != nil {
				return failed
			}
		}
		if now := f.now(); now.After(f.slowAt) {
			fmt.Fprintf(f.notes, "runtime-loader: the server is slow (%d of %d bytes so far); going on\n", into.received, f.config.size)
			f.slowAt, f.noted = now.Add(f.config.timeout/2), true
		}
		switch {
		case err == nil:
			continue
		case into.received == f.config.size:
			return nil
		case errors.Is(err, io.EOF) && len(response.TransferEncoding) > 0:
			return refuse(wrongSize, "the build is truncated: the server sent %d of its %d bytes; build it again", into.received, f.config.size)
		case errors.Is(err, context.Canceled):
			return &trouble{words: fmt.Sprintf("the server sent nothing for %s", f.stall)}
		}
		return &trouble{words: "the connection was cut", cut: true}
	}
}

// problemCode is what the answer says that is wrong (RFC 9457, member "code"); empty where it does not say it.
func problemCode(response *http.Response) string {
	var problem struct{ Code string }
	if !strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json") ||
		json.NewDecoder(io.LimitReader(response.Body, problemLimit)).Decode(&problem) != nil {
		return ""
	}
	return problem.Code
}

// wish reads a Retry-After: seconds or a date.
func (f *fetcher) wish(header string) time.Duration {
	if seconds, err := strconv.Atoi(strings.TrimSpace(header)); err == nil && seconds > 0 {
		if seconds > int(longestWish/time.Second) {
			return longestWish
		}
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(header); err == nil {
		return date.Sub(f.now())
	}
	return 0
}

// strong returns the validator where ranges may be joined by it.
func strong(etag string) string {
	if strings.HasPrefix(etag, `"`) {
		return etag
	}
	return ""
}

// reason says in words why there was no answer, and whether somebody was there; what the libraries say names our own request
// over and over.
func reason(err error, host string) (string, bool) {
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.As(err, &certificate):
		return fmt.Sprintf("the certificate of %s is not trusted (%v)", host, certificate.Err), true
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("%s does not answer", host), false
	}
	var operation *net.OpError
	if errors.As(err, &operation) {
		return fmt.Sprintf("%s cannot be reached (%v)", host, operation.Err), false
	}
	return fmt.Sprintf("%s cannot be asked (%v)", host, errors.Unwrap(err)), true
}
