package agentk

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Elector lets one replica of an agent work at a time.
type Elector interface {
	// Lead calls work whenever, and as long as, this replica leads the agent; work's
	// context ends when it no longer does. The term grows by one whenever the lead
	// passes to somebody else, or is given up and taken again. Lead returns when ctx
	// has ended and work, if it was called, has returned.
	Lead(ctx context.Context, agentID int64, work func(ctx context.Context, term int64)) error
}

// LeaseConfig configures an Elector that uses a Lease.
type LeaseConfig struct {
	Log *zap.Logger
	// Client of the API server; nil in tests that give Leases.
	RESTConfig *rest.Config
	// Leases of the API server; nil: made from RESTConfig.
	Leases coordinationv1.LeasesGetter
	// Namespace of the Lease.
	Namespace string
	// Identity of this replica. A process that restarts under the same identity
	// takes its Lease up again at once.
	Identity string

	// LeaseDuration, RenewDeadline and RetryPeriod are as client-go has them; zero
	// means 15, 10 and 2 seconds.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// leaseRequestTimeout bounds a request for the Lease, so that a silent API server
// does not stretch RenewDeadline to beyond LeaseDuration.
const leaseRequestTimeout = 3 * time.Second

type leaseElector struct {
	cfg LeaseConfig
}

// NewLeaseElector returns an Elector that holds the Lease "agentk-<agent ID>".
func NewLeaseElector(cfg LeaseConfig) (Elector, error) {
	if cfg.LeaseDuration == 0 {
		cfg.LeaseDuration, cfg.RenewDeadline, cfg.RetryPeriod = 15*time.Second, 10*time.Second, 2*time.Second
	}
	if cfg.Leases == nil {
		restConfig := rest.CopyConfig(cfg.RESTConfig)
		restConfig.Timeout = leaseRequestTimeout
		client, err := coordinationv1.NewForConfig(restConfig)
		if err != nil {
			return nil, fmt.Errorf("leader election: %w", err)
		}
		cfg.Leases = client
	}
	return &leaseElector{cfg: cfg}, nil
}

// Lead implements Elector.
func (e *leaseElector) Lead(ctx context.Context, agentID int64, work func(context.Context, int64)) error {
	for ctx.Err() == nil {
		if err := e.term(ctx, agentID, work); err != nil {
			return err
		}
	}
	return nil
}

// term waits for the Lease and works until it is lost or ctx ends.
func (e *leaseElector) term(ctx context.Context, agentID int64, work func(context.Context, int64)) error {
	started := make(chan context.Context, 1)
	name := fmt.Sprintf("agentk-%d", agentID)
	lock := &heldLock{Interface: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: e.cfg.Namespace, Name: name},
		Client:     e.cfg.Leases,
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.cfg.Identity},
	}}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:            name,
		Lock:            lock,
		LeaseDuration:   e.cfg.LeaseDuration,
		RenewDeadline:   e.cfg.RenewDeadline,
		RetryPeriod:     e.cfg.RetryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { started <- ctx },
			OnStoppedLeading: func() {},
			OnNewLeader: func(leader string) {
				if leader != e.cfg.Identity {
					e.cfg.Log.Info("Another replica leads, standing by", zap.String("leader", leader))
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	// The Lease outlives ctx: it is given up when the work has ended.
	holdCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(holdCtx)
	}()
	defer func() {
		giveUp()
		<-ended
	}()
	select {
	case <-ctx.Done():
	case <-ended:
	case leading := <-started:
		e.cfg.Log.Info("Leading", zap.String("lease", e.cfg.Namespace+"/"+name), zap.String("identity", e.cfg.Identity))
		workCtx, stop := context.WithCancel(ctx)
		defer stop()
		unhook := context.AfterFunc(leading, stop) //nolint:contextcheck // the lease's context, beside ctx
		defer unhook()
		lock.working.Store(true)
		work(workCtx, lock.term.Load())
		lock.working.Store(false)
		if ctx.Err() == nil {
			e.cfg.Log.Warn("No longer leading: the lease could not be renewed", zap.String("lease", e.cfg.Namespace+"/"+name))
		}
	}
	return nil
}

// heldLock does not give the Lease up while there is work. client-go would, at the
// moment when it could not be renewed, although requests may still be in flight:
// then it is left to expire.
type heldLock struct {
	resourcelock.Interface
	working atomic.Bool
	// term is the number of transitions at which the Lease was last taken.
	term atomic.Int64
}

// Create implements resourcelock.Interface.
func (l *heldLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, record)
	if err == nil {
		l.term.Store(int64(record.LeaderTransitions))
	}
	return err //nolint:wrapcheck // client-go's own
}

var errWorking = errors.New("work has not ended yet; the lease is left to expire")

// Update implements resourcelock.Interface.
func (l *heldLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity == "" && l.working.Load() {
		return errWorking
	}
	err := l.Interface.Update(ctx, record)
	if err == nil && record.HolderIdentity != "" {
		l.term.Store(int64(record.LeaderTransitions))
	}
	return err //nolint:wrapcheck // client-go's own
}
