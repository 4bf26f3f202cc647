package kas

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/testkit"
)

// writePair writes a new certificate for name, and its key.
func writePair(tb testing.TB, certFile, keyFile, name string) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: encoded},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestCertificate_IsReadAgainWhenItsFilesChange(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	writePair(t, certFile, keyFile, "one")
	clock := clocktesting.NewFakePassiveClock(time.Now())
	pair, err := newCertificate(certFile, keyFile, clock, testkit.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	changed := time.Now()
	touch := func() { // whatever the file system's clock
		changed = changed.Add(time.Minute)
		for _, path := range []string{certFile, keyFile} {
			if err := os.Chtimes(path, changed, changed); err != nil {
				t.Fatal(err)
			}
		}
	}
	serves := func(want string) {
		t.Helper()
		clock.SetTime(clock.Now().Add(certificateCheck))
		got, err := pair.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.Leaf.Subject.CommonName != want {
			t.Errorf("serves %s, want %s", got.Leaf.Subject.CommonName, want)
		}
	}
	serves("one")
	writePair(t, certFile, keyFile, "two")
	touch()
	serves("two")
	writePair(t, certFile, keyFile+".other", "three")
	touch()
	serves("two") // half of the replacement is no pair
	if err := os.Rename(keyFile+".other", keyFile); err != nil {
		t.Fatal(err)
	}
	touch()
	serves("three")
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	serves("three")
}

func TestRun_ServesTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, certFile, keyFile, "kas")
	listen := "{address: '127.0.0.1:0', certificate_file: " + certFile + ", key_file: " + keyFile + "}"
	kas := startWith(t, listen)
	for name, address := range map[string]string{"agent": kas.Agent, "API": kas.API, "observability": kas.Observability} {
		conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; got != "kas" {
			t.Errorf("%s: certificate of %s", name, got)
		}
		_ = conn.Close()
	}
}
