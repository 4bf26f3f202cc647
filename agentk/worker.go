package agentk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/internal/version"
)

// errClaimed marks a project that the configuration names twice, by path and by number.
var errClaimed = errors.New("the agent's configuration names this project twice")

// workerConfig is what the workers of all projects share.
type workerConfig struct {
	log      *zap.Logger
	client   agentrpc.SyncClient
	engine   Engine
	clock    clock.WithTicker
	token    func() (string, error)
	link     *link
	metrics  *metrics
	claims   *claims
	wants    *wants
	policies reopenPolicies
	limits   desired.Limits
	// store is nil without a state directory.
	store *desired.Store
	// controls keeps what people decide; nil: it is forgotten.
	controls ControlStore
	tracing  *tracing.Tracing
}

// worker syncs one manifest project. It lives as long as the project's
// configuration stays what it is.
type worker struct {
	workerConfig
	agentID  int64
	project  *agentcfg.ManifestProject
	receiver *desired.Receiver
	reporter *report.Reporter
	control  *control
	// healing is what the engine remembers of objects that others keep changing.
	healing *gitops.Healing
	// since is when the worker began to follow the project.
	since time.Time
	// sets is between the connection, which fills it, and the loop.
	sets desired.Slot[*desired.Set]
	// key of the inventory that the connection has claimed; empty: none.
	key string
	// attended is the newest set that the loop has begun with; it is the loop's.
	attended *desired.Set
	speed    speed
}

func newWorker(cfg workerConfig, agentID int64, project *agentcfg.ManifestProject) *worker {
	cfg.log = cfg.log.With(logging.Project(project.GetId()))
	if cfg.wants == nil {
		cfg.wants = newWants(cfg.clock)
	}
	return &worker{
		workerConfig: cfg,
		agentID:      agentID,
		project:      project,
		receiver:     desired.NewReceiver(cfg.limits),
		reporter:     report.New(report.Config{Clock: cfg.clock}),
		control:      newControl(cfg.controls),
		healing:      gitops.NewHealing(),
		since:        cfg.clock.Now(),
		speed:        speed{applied: cfg.metrics.applied, ready: cfg.metrics.ready},
	}
}

// Run syncs until ctx ends.
func (w *worker) Run(ctx context.Context) {
	defer w.metrics.lastApplied.DeleteLabelValues(w.project.GetId())
	defer w.metrics.contested.DeleteLabelValues(w.project.GetId())
	restored := w.restore()
	var wg sync.WaitGroup
	wg.Go(func() { w.offer(ctx, restored) })
	wg.Go(func() {
		keepOpen(ctx, w.log, w.policies, w.connect, func(err error) { w.link.ended("sync", err) })
	})
	wg.Go(func() { w.loop(ctx) })
	wg.Wait()
	w.claims.release(w.key)
}

// connect holds one stream open until it ends, one way or the other.
func (w *worker) connect(ctx context.Context) error {
	if _, err := w.token(); err != nil {
		return fmt.Errorf("%w: %w", errToken, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // hangs up
	g, ctx := errgroup.WithContext(ctx)
	stream, err := w.client.Connect(ctx)
	if err != nil {
		return fmt.Errorf("sync stream: %w", err)
	}
	w.receiver.Restart()
	commit, digests := w.receiver.Held()
	hello := &agentrpc.Hello{
		Project: w.project, CommitId: commit, Digests: digests, Version: version.Version, Capabilities: capabilities,
	}
	err = stream.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{Hello: hello}})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the reason comes with Recv
		return fmt.Errorf("sync stream: %w", err)
	}
	c := newConversation(stream)
	g.Go(func() error { return w.receive(c) })
	g.Go(func() error { w.obeyAll(ctx, c); return nil })
	g.Go(func() error { w.compareAll(ctx, c); return nil })
	g.Go(func() error {
		err := w.reporter.Stream(ctx, c.report)
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("report: %w", err)
	})
	return g.Wait()
}

// receive hands on sets and commands until the stream ends.
func (w *worker) receive(c *conversation) error {
	var began time.Time
	for {
		msg, err := c.stream.Recv()
		if err != nil {
			return fmt.Errorf("sync stream: %w", err)
		}
		if command := msg.GetCommand(); command != nil {
			c.command(command)
			continue
		}
		if msg.GetHeader() != nil {
			began = w.clock.Now()
		}
		set, err := w.receiver.Receive(msg)
		switch {
		case err != nil || set == nil:
		case set.ComparisonID != "":
			c.comparisons.Put(set)
		default:
			set.Began, set.Received = began, w.clock.Now()
			err = w.accept(set)
		}
		if err != nil {
			w.reporter.Refused(fmt.Sprintf("agentk cannot take what kas sent: %v", err))
			return fmt.Errorf("sync stream: %w", err)
		}
	}
}

// accept hands a whole set on to the loop, unless it is what the loop has already:
// kas sends the set again whenever the stream is opened again.
func (w *worker) accept(set *desired.Set) error {
	key := inventoryKey(w.agentID, set.ProjectID)
	if key != w.key {
		if other, ok := w.claims.claim(key, w.project.GetId()); !ok {
			return fmt.Errorf("%w, as %q and as %q: remove one", errClaimed, other, w.project.GetId())
		}
		w.claims.release(w.key)
		w.key = key
	}
	w.reporter.Refused("")
	w.wants.put(w.project.GetId(), key, set)
	if current, filled, _ := w.sets.Get(); filled && current.Same(set) {
		return nil
	}
	w.log.Info("Object set received", logging.Commit(set.Commit), zap.String("ref", set.Ref),
		zap.Int("objects", len(set.Set.Objects)), zap.Int("errors", len(set.Set.Errors)), zap.Bool("complete", set.Set.Complete))
	w.sets.Put(set)
	if w.store != nil {
		w.store.KeepSet(w.agentID, w.project, set)
	}
	return nil
}

// claims keeps two workers from one inventory: a project may be named by its path
// and by its number, and only kas's answer shows that both are one.
type claims struct {
	mu     sync.Mutex
	owners map[string]string
}

func newClaims() *claims { return &claims{owners: map[string]string{}} }

// claim takes key for owner, or returns who has it.
func (c *claims) claim(key, owner string) (other string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, taken := c.owners[key]; taken {
		return other, false
	}
	c.owners[key] = owner
	return "", true
}

// release gives key up; the empty key may be released.
func (c *claims) release(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.owners, key)
}
