package private

import (
	"crypto/tls"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

const (
	// handshakeTime is how long a new connection may take until it speaks gRPC.
	handshakeTime = 10 * time.Second
	// maxStreams of a connection: all that another replica wants of agents here.
	maxStreams = 50_000
)

// Agents are those that are connected to this replica.
type Agents interface {
	// Here returns an agent as a connection that is for RPCs with it here and nowhere else.
	// Errors of RPCs that have not begun have a method NotBegun that returns true. It takes
	// *grpctool.Raw for messages.
	Here(agentID int64) grpc.ClientConnInterface
}

// ServerConfig is how a server is.
type ServerConfig struct {
	// Secret that replicas share.
	Secret []byte
	// TLS; nil: plaintext.
	TLS   *tls.Config
	Clock clock.PassiveClock
	// Unary and Stream are called for calls that were let in.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
	// Options are added to the server's.
	Options []grpc.ServerOption
}

// NewServer returns a server that passes RPCs on to agents. The caller registers more
// services, serves, and stops it.
func NewServer(cfg ServerConfig, agents Agents, log *zap.Logger) *grpc.Server {
	a := &auth{
		verifier: jwtauth.NewVerifier(cfg.Secret, jwtauth.IssuerKas, jwtauth.AudienceKas, cfg.Clock),
		clock:    cfg.Clock, log: log,
	}
	f := &forwarder{agents: agents}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(grpctool.RawCodec()),
		grpctool.ServerBuffers(),
		grpc.UnknownServiceHandler(f.forward),
		grpc.ChainUnaryInterceptor(append([]grpc.UnaryServerInterceptor{a.unary}, cfg.Unary...)...),
		grpc.ChainStreamInterceptor(append([]grpc.StreamServerInterceptor{a.stream}, cfg.Stream...)...),
		// Of who has gone without a word. Connections have no age: watches live for hours.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: defaultPingPeriod, Timeout: defaultPingTimeout}),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(2 * window),
	}
	if cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	server := grpc.NewServer(append(options, cfg.Options...)...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer()) // what pings ask
	return server
}
