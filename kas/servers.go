package kas

import (
	"crypto/tls"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/kas-agentk/kas/internal/grpctool"
)

const (
	// connectionGrace is how long RPCs of a connection that has reached its age may go on at
	// least, such as watches and shells: the peer has been told to open the next ones on
	// another connection.
	connectionGrace = 24 * time.Hour
	// readBuffer of a connection, in bytes: there are many and they are mostly silent. What
	// is larger is read past it.
	readBuffer = 1 << 10
	// handshakeTime is how long a new connection may take until it speaks gRPC.
	handshakeTime = 20 * time.Second
	// workers of a server whose RPCs are short: their stacks have grown to what an RPC takes,
	// which saves a Get through the tunnel 4 % of its time. An RPC that finds none free, since
	// others last for long, has a goroutine of its own.
	workers = 64
	// maxStreams of a connection: one for each manifest project, and a few.
	maxStreams = 5000
	// maxHeaders of a request, in bytes: a stranger may send them.
	maxHeaders = 64 << 10
)

// serverConfig is one gRPC server.
type serverConfig struct {
	tls              *tls.Config // nil: plaintext
	maxConnectionAge time.Duration
	unary            []grpc.UnaryServerInterceptor
	stream           []grpc.StreamServerInterceptor
	health           *health.Server
	// codec takes what protobuf's takes, and maybe more. Nil: protobuf's.
	codec encoding.CodecV2
	// options are added to the server's.
	options []grpc.ServerOption
}

func newServer(cfg serverConfig) *grpc.Server {
	parameters := keepalive.ServerParameters{
		Time:                  grpctool.PingInterval,
		Timeout:               grpctool.PingTimeout,
		MaxConnectionAge:      cfg.maxConnectionAge, // gRPC spreads it by a tenth; zero is for ever
		MaxConnectionAgeGrace: aging{cfg.maxConnectionAge}.grace(),
	}
	options := []grpc.ServerOption{
		grpc.KeepaliveParams(parameters),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             grpctool.MinPingInterval,
			PermitWithoutStream: true,
		}),
		grpc.MaxRecvMsgSize(grpctool.MaxMessageSize),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.ReadBufferSize(readBuffer),
		grpctool.ServerBuffers(),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ChainUnaryInterceptor(cfg.unary...),
		grpc.ChainStreamInterceptor(cfg.stream...),
	}
	options = append(options, grpctool.ServerWindows()...)
	if cfg.codec != nil {
		options = append(options, grpc.ForceServerCodecV2(cfg.codec))
	}
	if cfg.tls != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(cfg.tls)))
	}
	server := grpc.NewServer(append(options, cfg.options...)...)
	grpc_health_v1.RegisterHealthServer(server, cfg.health)
	return server
}
