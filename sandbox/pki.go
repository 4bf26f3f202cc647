package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// validity of certificates: longer than anybody keeps a sandbox.
const validity = 10 * 365 * 24 * time.Hour

// pki is what parts of a control plane know each other by.
type pki struct {
	caFile         string
	certFile       string // of all servers
	keyFile        string
	accountKeyFile string // signs the tokens of service accounts
	tokensFile     string
	ca             []byte // PEM
	token          string // of the administrator
}

// ensurePKI reads what is in the folder, or fills it. It is filled beside and then
// renamed, so that it is whole where it exists.
func ensurePKI(dir string) (pki, error) {
	p := pki{
		caFile:         filepath.Join(dir, "ca.crt"),
		certFile:       filepath.Join(dir, "server.crt"),
		keyFile:        filepath.Join(dir, "server.key"),
		accountKeyFile: filepath.Join(dir, "sa.key"),
		tokensFile:     filepath.Join(dir, "tokens.csv"),
	}
	if !exists(dir) {
		temp := dir + ".new"
		if err := os.RemoveAll(temp); err != nil {
			return pki{}, fmt.Errorf("make certificates: %w", err)
		}
		if err := fillPKI(temp); err != nil {
			return pki{}, fmt.Errorf("make certificates: %w", err)
		}
		if err := os.Rename(temp, dir); err != nil {
			return pki{}, fmt.Errorf("make certificates: %w", err)
		}
	}
	var err error
	if p.ca, err = os.ReadFile(p.caFile); err != nil {
		return pki{}, fmt.Errorf("read certificate: %w", err)
	}
	tokens, err := os.ReadFile(p.tokensFile)
	if err != nil {
		return pki{}, fmt.Errorf("read token: %w", err)
	}
	p.token, _, _ = strings.Cut(string(tokens), ",")
	return p, nil
}

func fillPKI(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err //nolint:wrapcheck // it names the path
	}
	ca, caKey, err := newAuthority()
	if err != nil {
		return err
	}
	cert, key, err := newServerCertificate(ca, caKey)
	if err != nil {
		return err
	}
	accountKey, err := newKey()
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	accountKeyPEM, err := encodeKey(accountKey)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"ca.crt":     encodeCertificate(ca),
		"server.crt": encodeCertificate(cert),
		"server.key": keyPEM,
		"sa.key":     accountKeyPEM,
		"tokens.csv": []byte(hex.EncodeToString(randomBytes(32)) + `,sandbox-admin,sandbox-admin,"system:masters"` + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err //nolint:wrapcheck // it names the path
		}
	}
	return nil
}

func randomBytes(count int) []byte {
	b := make([]byte, count)
	_, _ = rand.Read(b) // never fails
	return b
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

func newAuthority() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "kas sandbox"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := sign(template, template, key, key)
	return cert, key, err
}

func newServerCertificate(ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := sign(template, ca, key, caKey)
	return cert, key, err
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return cert, nil
}

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
