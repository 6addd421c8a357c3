package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

func authority(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestConfig(t *testing.T) {
	good := map[string]string{
		"URL": "https://192.0.2.1:7/builds/a/b?revision=2", "TOKEN": "rbl_x", "CA": authority(t),
		"SHA256": strings.Repeat("aB", 32), "SIZE": "12", "NAMESPACE": "ns", "TIMEOUT": "5",
	}
	environ := func(change map[string]string) []string {
		list := []string{"OTHER=1"}
		for name, value := range good {
			if other, changed := change[name]; changed {
				value = other
			}
			list = append(list, prefix+name+"="+value)
		}
		return list
	}
	c, refused := readConfig(environ(nil))
	if refused != nil || c.size != 12 || c.timeout != 5*time.Second || c.sha256 != strings.Repeat("ab", 32) {
		t.Fatal(c, refused)
	}
	for name, values := range map[string][]string{
		"URL":     {"", "http://192.0.2.1/builds/a/b", "https://", "https://u:p@h/", "://", "file:///x"},
		"TOKEN":   {"", "a b", "a\r\nX: y"},
		"CA":      {"", "no pem"},
		"SHA256":  {"", "ab", strings.Repeat("zz", 32)},
		"SIZE":    {"", "0", "-1", "x", "99999999999999999999"},
		"TIMEOUT": {"0", "x", "99999999"},
	} {
		for _, value := range values {
			if _, refused := readConfig(environ(map[string]string{name: value})); refused == nil || refused.code != badConfiguration || !strings.Contains(refused.words, prefix+name) {
				t.Errorf("%s=%q: %v", name, value, refused)
			}
		}
	}
	if _, refused := readConfig(environ(map[string]string{"TOKEN": "se cret"})); strings.Contains(refused.words, "cret") {
		t.Error("the message holds the token")
	}
}

func TestCleaned(t *testing.T) {
	for _, c := range []struct{ given, want []string }{
		{[]string{"A=1", prefix + "TOKEN=x", prefix + "OTHER=y", "PATH=/x", "HOME=/y"}, []string{"A=1", "PATH=/x", "HOME=/y"}},
		{[]string{"HOME=/"}, []string{"PATH=" + defaultPath, "HOME=/tmp"}},
		{[]string{"A=b=c\nd"}, []string{"A=b=c\nd", "PATH=" + defaultPath, "HOME=/tmp"}},
	} {
		if got := cleaned(c.given); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %q", c.given, got)
		}
	}
}
