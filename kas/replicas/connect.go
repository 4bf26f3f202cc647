package replicas

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	// bufferSize is of each connection's buffers, of which there are four.
	bufferSize = 64 << 10
	// topologyPeriod is how often Sentinels are asked who the master is, besides what they tell.
	topologyPeriod = 5 * time.Second
	// pingAfter is how long a quiet connection is left alone.
	pingAfter = time.Second
)

// connections are those of one session. They can all be closed at once, whatever the library
// is doing with them.
type connections struct {
	network string

	mu     sync.Mutex
	open   []func() // closes a connection, or ends the attempt at one
	closed bool
}

// dial has the shape that the library wants.
func (c *connections) dial(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !c.add(cancel) {
		return nil, net.ErrClosed
	}
	var conn net.Conn
	var err error
	if config == nil {
		conn, err = dialer.DialContext(ctx, c.network, address)
	} else {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, c.network, address)
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // connect says what was being done
	}
	if !c.add(func() { _ = conn.Close() }) {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	return conn, nil
}

// add is false where all are closed already.
func (c *connections) add(end func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.open = append(c.open, end)
	}
	return !c.closed
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, end := range c.open {
		end()
	}
	c.open = nil
}

// connect returns a client that has greeted Redis. It gives up when ctx ends. Whoever calls it
// closes the connections and the client.
func connect(ctx context.Context, cfg Redis, c *connections) (rueidis.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(len(cfg.Addresses)+1)*cfg.DialTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	dialer := net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: pingAfter}
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: slices.Clone(cfg.Addresses),
		ShuffleInit: true,
		Username:    cfg.Username,
		Password:    cfg.Password,
		ClientName:  "kas",
		SelectDB:    cfg.Database,
		TLSConfig:   cfg.TLS,
		DialCtxFn:   c.dial,
		Dialer:      dialer,
		Sentinel: rueidis.SentinelOption{
			MasterSet: cfg.MasterName, Password: cfg.SentinelPassword,
			TLSConfig: cfg.TLS, Dialer: dialer, TopologyRefreshInterval: topologyPeriod,
		},
		ConnWriteTimeout:    cfg.WriteTimeout,
		ReadBufferEachConn:  bufferSize,
		WriteBufferEachConn: bufferSize,
		PipelineMultiplex:   -1, // one connection
		BlockingPipeline:    -1,
		ForceSingleClient:   cfg.MasterName == "",
		DisableCache:        true,
		DisableRetry:        true, // a session ends with the first failure
		AlwaysPipelining:    true, // else a caller's deadline breaks the connection
	})
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, fmt.Errorf("connect to Redis at %v: %w", cfg.Addresses, err)
	}
	return client, nil
}
