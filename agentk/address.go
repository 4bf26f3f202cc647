package agentk

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/version"
)

// Reconnecting: grpc waits between two tries at least baseDelay and at most
// maxDelay, give or take a fifth, and gives one try connectTimeout. A kas that is
// back is thus found within 3 seconds.
const (
	baseDelay      = 500 * time.Millisecond
	maxDelay       = 2500 * time.Millisecond
	connectTimeout = 3 * time.Second
)

// errAddress explains --kas-address.
var errAddress = errors.New("want grpc://HOST:PORT (plaintext) or grpcs://HOST:PORT (TLS)")

// parseAddress returns the host and port of --kas-address, and whether to use TLS.
func parseAddress(address string) (hostPort string, useTLS bool, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", false, fmt.Errorf("--kas-address %q: %w", address, errAddress)
	}
	switch u.Scheme {
	case "grpc":
	case "grpcs":
		useTLS = true
	case "ws", "wss":
		return "", false, fmt.Errorf("--kas-address %q: WebSocket is not supported yet: %w", address, errAddress)
	default:
		return "", false, fmt.Errorf("--kas-address %q: %w", address, errAddress)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || host == "" || port == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil {
		return "", false, fmt.Errorf("--kas-address %q: %w", address, errAddress)
	}
	return u.Host, useTLS, nil
}

// transport returns the credentials of the connection. caFile may be empty.
func transport(useTLS bool, caFile string) (credentials.TransportCredentials, error) {
	if !useTLS {
		if caFile != "" {
			return nil, fmt.Errorf("--ca-cert-file is of no use with grpc://: %w", errAddress)
		}
		return insecure.NewCredentials(), nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
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
	}
	return credentials.NewTLS(cfg), nil
}

// newConn returns the one connection to kas. It dials in the background, for ever.
func newConn(cfg *Config) (*grpc.ClientConn, error) {
	hostPort, useTLS, err := parseAddress(cfg.KASAddress)
	if err != nil {
		return nil, err
	}
	creds, err := transport(useTLS, cfg.CACertFile)
	if err != nil {
		return nil, err
	}
	// passthrough: the name is looked up at every try, not once in a while.
	conn, err := grpc.NewClient("passthrough:///"+hostPort,
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent("agentk/"+version.Version),
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{Token: cfg.token, Plaintext: !useTLS}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpctool.MaxMessageSize), grpc.WaitForReady(true)),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                grpctool.PingInterval,
			Timeout:             grpctool.PingTimeout,
			PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: baseDelay, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxDelay},
			MinConnectTimeout: connectTimeout,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("--kas-address %q: %w", cfg.KASAddress, err)
	}
	return conn, nil
}
