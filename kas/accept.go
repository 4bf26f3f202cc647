package kas

import (
	"fmt"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/kas-agentk/kas/api/kascfg"
)

// bounded is a listener that turns connections away when too many come at a time. It does
// not have them wait: who waits long gives up, and would be let in when it is gone.
type bounded struct {
	net.Listener
	limit *rate.Limiter
	shed  prometheus.Counter
}

// bound returns what makes of a listener one with a limit of new connections.
func bound(cfg *kascfg.TokenBucket, registerer prometheus.Registerer) (func(net.Listener) net.Listener, error) {
	shed := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kas_agent_connections_turned_away_total",
		Help: "Connections of agents that were closed at once because too many came at a time (agent.listen.connection_rate_limit).",
	})
	if err := registerer.Register(shed); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if cfg.GetRefillRatePerSecond() == 0 {
		return func(l net.Listener) net.Listener { return l }, nil
	}
	limit := rate.NewLimiter(rate.Limit(cfg.GetRefillRatePerSecond()), max(int(cfg.GetBucketSize()), 1))
	return func(l net.Listener) net.Listener { return &bounded{Listener: l, limit: limit, shed: shed} }, nil
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err //nolint:wrapcheck // servers decide on it
		}
		if b.limit.Allow() {
			return conn, nil
		}
		b.shed.Inc()
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset leaves nothing behind here
		}
		_ = conn.Close() // it is not wanted
	}
}
