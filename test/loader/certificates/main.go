// Makes an authority and a certificate of it for one address; prints both, and the certificate's key, as JSON with PEM in it.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"time"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func text(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func main() {
	from, to := time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	caKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test of the loader"},
		NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "builds"},
		NotBefore: from, NotAfter: to, IPAddresses: []net.IP{net.ParseIP(os.Args[1])}}
	json.NewEncoder(os.Stdout).Encode(map[string]string{
		"ca":   text("CERTIFICATE", must(x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey))),
		"cert": text("CERTIFICATE", must(x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey))),
		"key":  text("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))),
	})
}
