package gitaly

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	gitalyauth "gitlab.com/gitlab-org/gitaly/v14/auth"
	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/ror/registry"
)

// ErrUnavailable is wrapped where Gitaly cannot be reached.
var ErrUnavailable = errors.New("gitaly does not answer")

// patience is how long a call waits for Gitaly to come (back) up: long enough for a
// restart that is nearly over, short enough for a person at a terminal.
const patience = 3 * time.Second

// createTimeout is how long making a repository may take.
const createTimeout = 30 * time.Second

// Config is where Gitaly is.
type Config struct {
	// Address is a URL: tcp://HOST:PORT, tls://HOST:PORT or unix:PATH.
	Address string
	// Token is the secret that Gitaly was configured with.
	Token string
	// Storage is the name of the storage for new repositories.
	Storage string
}

// Client is safe for concurrent use.
type Client struct {
	cfg          Config
	conn         *grpc.ClientConn
	repositories gitalypb.RepositoryServiceClient
	smartHTTP    gitalypb.SmartHTTPServiceClient
}

// NewClient does not connect yet. The caller closes the client.
func NewClient(cfg Config, options ...grpc.DialOption) (*Client, error) {
	target, transport, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(gitalyauth.RPCCredentialsV2(cfg.Token)),
		grpc.WithConnectParams(grpc.ConnectParams{
			// People wait for the answer: try again soon.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, options...)
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("gitaly client: %w", err)
	}
	return &Client{
		cfg:          cfg,
		conn:         conn,
		repositories: gitalypb.NewRepositoryServiceClient(conn),
		smartHTTP:    gitalypb.NewSmartHTTPServiceClient(conn),
	}, nil
}

// parseAddress turns Gitaly's way to write an address into gRPC's.
func parseAddress(address string) (target string, transport credentials.TransportCredentials, err error) {
	if strings.HasPrefix(address, "unix:") {
		return address, insecure.NewCredentials(), nil
	}
	u, err := url.Parse(address)
	if err == nil && u.Host != "" && u.Port() != "" {
		switch u.Scheme {
		case "tcp":
			return "dns:///" + u.Host, insecure.NewCredentials(), nil
		case "tls":
			return "dns:///" + u.Host, credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), nil
		}
	}
	return "", nil, fmt.Errorf("gitaly address %q: want tcp://HOST:PORT, tls://HOST:PORT or unix:PATH", address)
}

// awaitReady waits a while for the connection. Where none comes, the call that follows
// says why.
func (c *Client) awaitReady(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		state := c.conn.GetState()
		if state == connectivity.Ready {
			return
		}
		c.conn.Connect()
		if !c.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// Close ends the connection.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("close connection to gitaly: %w", err)
	}
	return nil
}

// Info is how kas can reach the same Gitaly.
func (c *Client) Info() gitlabapi.GitalyInfo {
	return gitlabapi.GitalyInfo{Address: c.cfg.Address, Token: c.cfg.Token, Features: map[string]string{}}
}

// Repository is how a project's repository is named to Gitaly.
func (c *Client) Repository(p registry.Project) gitlabapi.GitalyRepository {
	return gitlabapi.GitalyRepository{
		StorageName: c.cfg.Storage, RelativePath: p.RelativePath(), GlRepository: p.GLRepository(), GlProjectPath: p.FullPath,
	}
}

func (c *Client) repository(p registry.Project) *gitalypb.Repository {
	r := c.Repository(p)
	return &gitalypb.Repository{
		StorageName: r.StorageName, RelativePath: r.RelativePath, GlRepository: r.GlRepository, GlProjectPath: r.GlProjectPath,
	}
}

// Create makes a project's empty repository. One that is there already is no error.
func (c *Client) Create(ctx context.Context, p registry.Project) error {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	c.awaitReady(ctx)
	_, err := c.repositories.CreateRepository(ctx, &gitalypb.CreateRepositoryRequest{
		Repository: c.repository(p), DefaultBranch: []byte(p.DefaultBranch),
	})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return classify("create repository", p, err)
}

// classify says what failed and whether Gitaly was there at all.
func classify(what string, p registry.Project, err error) error {
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.Unavailable:
		return fmt.Errorf("%s of project %s: %w: %w", what, p.FullPath, ErrUnavailable, err)
	}
	return fmt.Errorf("%s of project %s: %w", what, p.FullPath, err)
}
