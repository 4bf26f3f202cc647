// Package kasapi asks kas, over gRPC, which agents are connected, what is in their
// clusters, and what is wrong with an agent, carries people's commands to agents, and tells
// kas what happened. Each call carries a JWT that is less than a second old and has a
// deadline of its own: which agents are connected is answered within a second, so that a
// page never waits for a kas that is away; a command and a question take as long as the
// agent behind kas may, and a watch as long as its context. The connection is made when
// first needed and again whenever it broke.
//
// A command or question that came to nothing is an *Error, whose message is for people.
package kasapi

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

// Timeout is how long the question for connected agents may take.
const Timeout = time.Second

// Config is where kas is.
type Config struct {
	// Address is HOST:PORT of kas's API for RoR.
	Address string
	// Secret is shared with kas.
	Secret []byte
	// Clock tells the time. Default: the real one.
	Clock clock.PassiveClock
}

// Client is safe for concurrent use.
type Client struct {
	conn    *grpc.ClientConn
	tracker railsrpc.AgentTrackerClient
	sync    railsrpc.SyncStatusClient
	state   railsrpc.ClusterStateClient

	diagnostics railsrpc.AgentDiagnosticsClient
}

// NewClient does not connect yet. The caller closes the client.
func NewClient(cfg Config, options ...grpc.DialOption) (*Client, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{
			Token:     jwtauth.NewSigner(cfg.Secret, jwtauth.IssuerGitlab, jwtauth.AudienceKas, cfg.Clock).Token,
			Plaintext: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, options...)
	conn, err := grpc.NewClient(cfg.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("kas client: %w", err)
	}
	return &Client{
		conn: conn, tracker: railsrpc.NewAgentTrackerClient(conn), sync: railsrpc.NewSyncStatusClient(conn), state: railsrpc.NewClusterStateClient(conn),
		diagnostics: railsrpc.NewAgentDiagnosticsClient(conn),
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("close connection to kas: %w", err)
	}
	return nil
}

// ConnectedAgents lists the connections of the agents named.
func (c *Client) ConnectedAgents(ctx context.Context, ids []int64) ([]*railsrpc.ConnectedAgent, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	res, err := c.tracker.GetConnectedAgents(ctx, &railsrpc.GetConnectedAgentsRequest{AgentIds: ids})
	if err != nil {
		return nil, fmt.Errorf("ask kas for connected agents: %w", err)
	}
	return res.GetAgents(), nil
}
