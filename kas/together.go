package kas

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/kas/gitaly"
	"github.com/kas-agentk/kas/kas/private"
	"github.com/kas-agentk/kas/kas/proxy"
	"github.com/kas-agentk/kas/kas/push"
	"github.com/kas-agentk/kas/kas/rails"
	"github.com/kas-agentk/kas/kas/replicas"
	"github.com/kas-agentk/kas/kas/status"
)

// pollsTopic is what replicas tell each other on of refs that have moved.
const pollsTopic = "polls"

// pollers shares the polling of refs among replicas.
func (m *many) pollers() gitaly.Replicas {
	if m == nil {
		return nil
	}
	return turns{m.replicas}
}

// turns are who polls which ref: by leases.
type turns struct{ *replicas.Replicas }

// Turn implements gitaly.Replicas.
func (t turns) Turn(name string) gitaly.Turn {
	one := turn{t.Lease("poll/" + name)}
	one.Begin()
	return one
}

// Tell implements gitaly.Replicas.
func (t turns) Tell(message []byte) { t.Replicas.Tell(pollsTopic, message) }

// turn is a lease.
type turn struct{ *replicas.Lease }

// Theirs implements gitaly.Turn.
func (t turn) Theirs() (theirs bool, changed <-chan struct{}) {
	state, changed := t.State()
	return state == replicas.Other, changed
}

// statuses is how statuses are kept, together with the other replicas if there are any.
func (m *many) statuses() status.Config {
	cfg := status.Config{Clock: clock.RealClock{}}
	if m != nil {
		cfg.Replicas, cfg.Self = shared{m.replicas, m.calls}, m.presence.self
	}
	return cfg
}

// shared is what replicas share, for statuses.
type shared struct {
	*replicas.Replicas
	calls *private.Client
}

// Answers implements status.Replicas.
func (s shared) Answers(ctx context.Context, url string) bool {
	_, err := grpc_health_v1.NewHealthClient(s.calls.Conn(url)).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err == nil
}

// bus tells the other replicas; nil: there are none.
func (m *many) bus() rails.Bus {
	if m == nil {
		return nil
	}
	return m.replicas
}

// hear has the rooms told what other replicas tell.
func (m *many) hear(statuses *status.Store, refs *gitaly.Refs, notifications *rails.Notifications) {
	if m == nil {
		return
	}
	m.replicas.Hear(status.Topic, statuses.Heard)
	m.replicas.Orphans(statuses.Orphaned)
	m.replicas.Hear(pollsTopic, refs.Heard)
	m.replicas.Hear(rails.NotificationsTopic, notifications.Heard)
}

// controls carries commands to agents, whichever replica they are connected to.
func (m *many) controls(here *push.Server) rails.Controls {
	if m == nil {
		return here
	}
	return &rails.Everywhere{Local: here, Others: commanders{m}}
}

// commanders are the replicas that commands may be given to.
type commanders struct{ *many }

// With implements rails.Others.
func (c commanders) With(ctx context.Context, agentID int64) ([]grpc.ClientConnInterface, error) {
	urls, _, err := c.replicas.Where(ctx, agentID)
	if err != nil {
		return nil, err
	}
	var all []grpc.ClientConnInterface
	for _, url := range urls {
		all = append(all, c.calls.Conn(url))
	}
	return all, nil
}

// limiter bounds how often something may be done, by keys that tell nothing.
type limiter = proxy.Limiter

// limiter returns one for this kas, or for all replicas together.
func (m *many) limiter(name string, limit *kascfg.TokenBucket) limiter {
	perSecond, burst := limit.GetRefillRatePerSecond(), int(limit.GetBucketSize())
	if perSecond == 0 {
		return unlimited{}
	}
	if m == nil {
		return proxy.NewLocalLimiter(perSecond, burst, clock.RealClock{})
	}
	return m.replicas.Limiter(name, perSecond, burst)
}

// unlimited lets everybody through.
type unlimited struct{}

// Allow implements limiter.
func (unlimited) Allow(context.Context, string) (ok bool, retryAfter time.Duration) { return true, 0 }
