package wstransport

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

var (
	errNotSecure = errors.New("the connection is not a WebSocket over TLS")
	errClient    = errors.New("these credentials are a client's")
)

// Credentials are those of a grpc.ClientConn over the dialer's connections. With wss://
// tokens that must not travel in the clear may go over them, with ws:// they may not.
func (d *Dialer) Credentials() credentials.TransportCredentials {
	if !d.secure() {
		return insecure.NewCredentials()
	}
	return outerTLS{}
}

// outerTLS vouches for connections that TLS encrypts around the WebSocket, and for no other.
type outerTLS struct{}

// ClientHandshake implements credentials.TransportCredentials.
func (outerTLS) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*conn)
	if !ok || c.secure == nil {
		return nil, nil, errNotSecure
	}
	return c, credentials.TLSInfo{
		State:          *c.secure,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (outerTLS) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errClient
}

// Info implements credentials.TransportCredentials.
func (outerTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (c outerTLS) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials. The URL has the name.
func (outerTLS) OverrideServerName(string) error { return nil }
