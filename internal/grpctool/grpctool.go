// Package grpctool holds the gRPC settings and the metadata handling that both
// ends of a connection must agree on.
package grpctool

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// MaxMessageSize is the largest message, in bytes, that either end accepts:
	// gRPC's own default. Senders keep chunks below ChunkSize; only a single
	// Kubernetes object (at most 1.5 MiB in etcd) may be larger.
	MaxMessageSize = 4 << 20
	// ChunkSize is where senders cut a long list into the next message, in bytes.
	ChunkSize = 768 << 10

	// PingInterval is how long a connection may be silent before an end asks
	// whether the other is still there.
	PingInterval = 20 * time.Second
	// PingTimeout is how long that answer may take before the connection is dropped.
	PingTimeout = 10 * time.Second
	// MinPingInterval is the shortest interval that a server tolerates.
	MinPingInterval = 10 * time.Second

	authorization = "authorization"
	bearer        = "bearer "
)

// ErrNoToken is returned by BearerToken.
var ErrNoToken = errors.New(`no "authorization: Bearer <token>" in the request`)

// BearerToken returns the token of an incoming call.
func BearerToken(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, authorization)
	if len(values) != 1 || len(values[0]) <= len(bearer) || !strings.EqualFold(values[0][:len(bearer)], bearer) {
		return "", ErrNoToken
	}
	return values[0][len(bearer):], nil
}

// TokenCredentials sends a bearer token with every call.
type TokenCredentials struct {
	// Token is asked at every call, so that a token may be replaced while running.
	Token func() (string, error)
	// Plaintext permits connections without TLS.
	Plaintext bool
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c TokenCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := c.Token()
	if err != nil {
		return nil, err
	}
	return map[string]string{authorization: "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c TokenCredentials) RequireTransportSecurity() bool {
	return !c.Plaintext
}

// Words is an error's text for people: without the "rpc error: code = … desc = " of
// gRPC statuses.
func Words(err error) string {
	var carrier interface {
		error
		GRPCStatus() *status.Status
	}
	if !errors.As(err, &carrier) {
		return err.Error()
	}
	text := strings.Replace(err.Error(), carrier.Error(), carrier.GRPCStatus().Message(), 1)
	return strings.ToValidUTF8(text, "\uFFFD") // a peer may say anything
}
