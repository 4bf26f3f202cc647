package agentk

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
)

// errAddress explains --kas-address.
var errAddress = errors.New("want grpcs://HOST:PORT (TLS), grpc://HOST:PORT (plaintext), wss://HOST[:PORT]/PATH (WebSocket over TLS) or ws://HOST[:PORT]/PATH (WebSocket, plaintext)")

// kasAddress is --kas-address.
type kasAddress struct {
	url *url.URL
	// webSocket, or else gRPC by itself.
	webSocket bool
	// secure: TLS. What has not asked for it never gets it, nor the other way round.
	secure bool
}

// parseAddress takes --kas-address apart.
func parseAddress(address string) (kasAddress, error) {
	wrong := func() (kasAddress, error) {
		return kasAddress{}, fmt.Errorf("--kas-address %q: %w", address, errAddress)
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil {
		return wrong()
	}
	a := kasAddress{url: u}
	switch u.Scheme {
	case "grpc", "grpcs":
		if _, port, err := net.SplitHostPort(u.Host); err != nil || port == "" || u.Path != "" && u.Path != "/" {
			return wrong()
		}
		a.secure = u.Scheme == "grpcs"
	case "ws", "wss":
		a.webSocket, a.secure = true, u.Scheme == "wss"
	default:
		return wrong()
	}
	return a, nil
}

// tlsConfig is how to trust the kas at a; nil: TLS is not used. caFile may be empty.
func tlsConfig(a kasAddress, caFile string) (*tls.Config, error) {
	if !a.secure {
		if caFile != "" {
			return nil, fmt.Errorf("--ca-cert-file is of no use with %s://: %w", a.url.Scheme, errAddress)
		}
		return nil, nil //nolint:nilnil // plaintext was asked for
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-cert-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-cert-file %s holds no PEM certificate", caFile)
	}
	cfg.RootCAs = pool
	return cfg, nil
}
