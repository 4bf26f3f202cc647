package stack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"
)

// certificateValidity is longer than anybody keeps a stack.
const certificateValidity = 10 * 365 * 24 * time.Hour

// ensureCertificate makes a certificate for this machine, which vouches for itself, and its
// key, unless they are there. The certificate is written last.
func ensureCertificate(certFile, keyFile string) error {
	if _, err := os.Stat(certFile); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err //nolint:wrapcheck // it names the path
	}
	cert, key, err := newCertificate()
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	for _, file := range []struct {
		path  string
		block *pem.Block
	}{
		{keyFile, &pem.Block{Type: "EC PRIVATE KEY", Bytes: key}},
		{certFile, &pem.Block{Type: "CERTIFICATE", Bytes: cert}},
	} {
		if err := os.WriteFile(file.path, pem.EncodeToMemory(file.block), 0o600); err != nil {
			return fmt.Errorf("write certificate: %w", err)
		}
	}
	return nil
}

func newCertificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // ensureCertificate does
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "kas sandbox"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(certificateValidity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if cert, err = x509.CreateCertificate(rand.Reader, template, template, private.Public(), private); err != nil {
		return nil, nil, err //nolint:wrapcheck // ensureCertificate does
	}
	key, err = x509.MarshalECPrivateKey(private)
	return cert, key, err //nolint:wrapcheck // ensureCertificate does
}
