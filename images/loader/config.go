package main

import (
	"crypto/x509"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	prefix         = "RUNTIME_LOADER_"
	defaultTimeout = 60 * time.Second
	defaultPath    = "/usr/local/bin:/usr/bin:/bin"
	home           = "/tmp"
)

type config struct {
	url       string
	host      string
	token     string
	namespace string
	ca        *x509.CertPool
	sha256    string
	size      int64
	// How long it goes on without a new byte.
	timeout time.Duration
}

func readConfig(environ []string) (config, *refusal) {
	values := map[string]string{}
	for _, entry := range environ {
		if name, value, found := strings.Cut(entry, "="); found && strings.HasPrefix(name, prefix) {
			values[strings.TrimPrefix(name, prefix)] = value
		}
	}
	for _, name := range []string{"URL", "TOKEN", "CA", "SHA256", "SIZE"} {
		if values[name] == "" {
			return config{}, refuse(badConfiguration, "%s%s is not set; containers of this image are started by a Runtime Builds server", prefix, name)
		}
	}
	c := config{token: values["TOKEN"], namespace: values["NAMESPACE"], url: values["URL"], ca: x509.NewCertPool(), timeout: defaultTimeout}
	address, err := url.Parse(c.url)
	if err != nil || address.Scheme != "https" || address.Host == "" || address.User != nil || address.Fragment != "" {
		return c, refuse(badConfiguration, "%sURL must be https://HOST[:PORT]/builds/NAME/VERSION?revision=N; a credential is never sent unencrypted", prefix)
	}
	c.host = address.Host
	for name, value := range map[string]string{"TOKEN": c.token, "NAMESPACE": c.namespace} {
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return c, refuse(badConfiguration, "%s%s must be printable ASCII without spaces", prefix, name)
		}
	}
	if !c.ca.AppendCertsFromPEM([]byte(values["CA"])) {
		return c, refuse(badConfiguration, "%sCA must hold a certificate, PEM", prefix)
	}
	c.sha256 = strings.ToLower(values["SHA256"])
	if digest, err := hex.DecodeString(c.sha256); err != nil || len(digest) != 32 {
		return c, refuse(badConfiguration, "%sSHA256 must be 64 hexadecimal digits", prefix)
	}
	if c.size, err = strconv.ParseInt(values["SIZE"], 10, 64); err != nil || c.size < 1 {
		return c, refuse(badConfiguration, "%sSIZE must be the number of bytes of the build", prefix)
	}
	if text := values["TIMEOUT"]; text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds < 1 || seconds > 86_400 {
			return c, refuse(badConfiguration, "%sTIMEOUT must be a number of seconds from 1 to 86400", prefix)
		}
		c.timeout = time.Duration(seconds) * time.Second
	}
	return c, nil
}

// cleaned is the environment of the program: nothing of the loader's, and what every program may count on.
func cleaned(environ []string) []string {
	kept := make([]string, 0, len(environ)+2)
	for _, entry := range environ {
		// "/" is what container engines say where they know no home; it cannot be written to.
		if !strings.HasPrefix(entry, prefix) && entry != "HOME=/" {
			kept = append(kept, entry)
		}
	}
	if valueOf(kept, "PATH") == "" {
		kept = append(kept, "PATH="+defaultPath)
	}
	if valueOf(kept, "HOME") == "" {
		kept = append(kept, "HOME="+home)
	}
	return kept
}

func valueOf(environ []string, name string) string {
	for _, entry := range environ {
		if key, value, found := strings.Cut(entry, "="); found && key == name {
			return value
		}
	}
	return ""
}
