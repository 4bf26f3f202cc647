package agentk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/version"
	"github.com/kas-agentk/kas/internal/wstransport"
)

// Reconnecting: grpc waits between two tries at least baseDelay and at most
// maxDelay on average, anything from nothing to twice as long, so that agents that
// have lost a kas together do not come back together. It gives one try
// connectTimeout. A kas that is back is thus found within 4 seconds.
const (
	baseDelay      = 500 * time.Millisecond
	maxDelay       = 2 * time.Second
	fullJitter     = 1
	connectTimeout = 3 * time.Second
)

// writeBuffer is how much is sent at once, in bytes: of a large transfer four frames of
// HTTP/2. gRPC frees it when nothing is to be sent.
const writeBuffer = 64 << 10

const (
	// askWhy is how often the reason is looked at while kas cannot be reached, and how
	// long that may take.
	askWhy = 5 * time.Second
	// sayWhy is how often it is logged.
	sayWhy = 10 * time.Minute
)

// errUnreachable is why kas is away, where nothing more is known.
var errUnreachable = errors.New("kas cannot be reached")

// newConn returns the one connection to kas. It dials in the background, for ever.
func newConn(cfg *Config) (*grpc.ClientConn, error) {
	address, err := parseAddress(cfg.KASAddress)
	if err != nil {
		return nil, err
	}
	transport, err := transportOptions(address, cfg.CACertFile)
	if err != nil {
		return nil, err
	}
	transport = append(transport, grpctool.ClientWindows()...)
	// passthrough: the name is looked up at every try, not once in a while.
	conn, err := grpc.NewClient("passthrough:///"+address.url.Host, append(transport,
		grpc.WithUserAgent(userAgent()),
		grpc.WithWriteBufferSize(writeBuffer),
		// gRPC refuses a connection without TLS where the address has asked for it.
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{Token: cfg.token, Plaintext: !address.secure}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpctool.MaxMessageSize), grpc.WaitForReady(true)),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                grpctool.PingInterval,
			Timeout:             grpctool.PingTimeout,
			PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: baseDelay, Multiplier: 1.6, Jitter: fullJitter, MaxDelay: maxDelay},
			MinConnectTimeout: connectTimeout,
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("--kas-address %q: %w", cfg.KASAddress, err)
	}
	return conn, nil
}

// transportOptions are what the connection goes over.
func transportOptions(address kasAddress, caFile string) ([]grpc.DialOption, error) {
	cfg, err := tlsConfig(address, caFile)
	switch {
	case err != nil:
		return nil, err
	case address.webSocket:
		d := &wstransport.Dialer{URL: address.url, TLS: cfg, UserAgent: userAgent()}
		return []grpc.DialOption{grpc.WithContextDialer(d.Dial), grpc.WithTransportCredentials(d.Credentials())}, nil
	case cfg == nil:
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	return []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(cfg))}, nil
}

func userAgent() string { return "agentk/" + version.Version }

// noticeAbsence tells the link when the connection cannot be made, and why, until ctx
// ends: the streams wait for it, and would not say.
func (a *Agent) noticeAbsence(ctx context.Context) {
	var said time.Time
	for ctx.Err() == nil {
		state := a.conn.GetState()
		switch state {
		case connectivity.TransientFailure:
			why := a.whyAbsent(ctx)
			if ctx.Err() != nil || a.conn.GetState() != state {
				continue // it may have been kas that answered
			}
			a.link.unreachable(why)
			if now := a.cfg.Clock.Now(); now.Sub(said) >= sayWhy {
				said = now
				a.cfg.Log.Warn("kas cannot be reached, trying again for ever", zap.String("kas", a.cfg.KASAddress), zap.Error(why))
			}
		case connectivity.Ready:
			said = time.Time{}
		}
		awaitChange(ctx, a.conn, state)
	}
}

// awaitChange waits until the connection's state is another one. Meanwhile the reason
// why there is none may have changed.
func awaitChange(ctx context.Context, conn *grpc.ClientConn, state connectivity.State) {
	if state == connectivity.TransientFailure {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askWhy)
		defer cancel()
	}
	conn.WaitForStateChange(ctx, state)
}

// whyAbsent returns why the last try to connect failed: gRPC tells that to a call that
// does not wait, and sends nothing.
func (a *Agent) whyAbsent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askWhy)
	defer cancel()
	_, err := grpc_health_v1.NewHealthClient(a.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(false))
	if err == nil {
		return errUnreachable // it just was
	}
	return fmt.Errorf("%w: %s", errUnreachable, grpctool.Words(err))
}
