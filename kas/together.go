package kas

import (
	"context"

	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/kas/gitaly"
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
func (t turns) Turn(ctx context.Context, name string) gitaly.Turn {
	ctx, cancel := context.WithCancel(ctx)
	one := &turn{lease: t.Lease("poll/" + name), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(one.ended)
		_ = one.lease.Run(ctx) // it returns nil
	}()
	return one
}

// Tell implements gitaly.Replicas.
func (t turns) Tell(message []byte) { t.Replicas.Tell(pollsTopic, message) }

// turn is a lease, and the goroutine that it runs in.
type turn struct {
	lease  *replicas.Lease
	cancel context.CancelFunc
	ended  chan struct{}
}

// Theirs implements gitaly.Turn.
func (t *turn) Theirs() (theirs bool, changed <-chan struct{}) {
	state, changed := t.lease.State()
	return state == replicas.Other, changed
}

// End implements gitaly.Turn.
func (t *turn) End() {
	t.cancel()
	<-t.ended
}

// statuses is how statuses are kept, together with the other replicas if there are any.
func (m *many) statuses() status.Config {
	cfg := status.Config{Clock: clock.RealClock{}}
	if m != nil {
		cfg.Replicas, cfg.Self = m.replicas, m.presence.self
	}
	return cfg
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
	if m == nil {
		return proxy.NewLocalLimiter(perSecond, burst, clock.RealClock{})
	}
	return m.replicas.Limiter(name, perSecond, burst)
}
