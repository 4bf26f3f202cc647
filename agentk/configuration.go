package agentk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/logging"
)

// maxProjects bounds the workers. kas's limits are lower.
const maxProjects = 1000

// configuration is what kas says this agent is to do. It must not be changed.
type configuration struct {
	agentID  int64
	commit   string
	projects []*agentcfg.ManifestProject
	// restored: it was kept on disk, and kas has not confirmed it.
	restored bool
}

// watcher holds the configuration stream open.
type watcher struct {
	log    *zap.Logger
	client agentrpc.AgentConfigurationClient
	// meta is asked at every connect.
	meta  func(context.Context) *agentrpc.AgentMeta
	token func() (string, error)
	link  *link
	// apply has what is not about projects follow the configuration.
	apply   func(*agentcfg.ConfigurationFile)
	configs *desired.Slot[*configuration]
	// keep is told what kas said to the holder of the token.
	keep     func(token string, response *agentrpc.WatchResponse)
	policies reopenPolicies
}

// Run publishes configurations until ctx ends.
func (w *watcher) Run(ctx context.Context) {
	keepOpen(ctx, w.log, w.policies, w.open, func(err error) {
		w.link.ended("configuration", err)
		w.link.down(err)
	})
}

func (w *watcher) open(ctx context.Context) error {
	token, err := w.token()
	if err != nil {
		return fmt.Errorf("%w: %w", errToken, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // hangs up
	held, _, _ := w.configs.Get()
	request := &agentrpc.WatchRequest{AgentMeta: w.meta(ctx)}
	if held != nil && !held.restored { // else kas is to say who this is, and all
		request.CommitId = held.commit
	}
	stream, err := w.client.Watch(ctx, request)
	if err != nil {
		return fmt.Errorf("watch configuration: %w", err)
	}
	// kas sends its header once it has let the agent in, which may be long before
	// there is a configuration.
	if header, err := stream.Header(); err == nil && header != nil {
		w.link.up()
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("watch configuration: %w", err)
		}
		w.link.up()
		w.take(response)
		w.keep(token, response)
	}
}

func (w *watcher) take(response *agentrpc.WatchResponse) {
	cfg := configurationOf(w.log, response)
	w.log.Info("Configuration received", logging.AgentID(cfg.agentID), zap.String("agent_name", response.GetAgentName()),
		logging.Commit(cfg.commit), zap.Int("projects", len(cfg.projects)))
	w.apply(response.GetConfiguration())
	w.configs.Put(cfg)
	w.link.configured()
}

// configurationOf reads what kas said.
func configurationOf(log *zap.Logger, response *agentrpc.WatchResponse) *configuration {
	return &configuration{
		agentID:  response.GetAgentId(),
		commit:   response.GetCommitId(),
		projects: usable(log, response.GetConfiguration().GetGitops().GetManifestProjects()),
	}
}

// usable drops what cannot be worked on. kas checks the same, and tells the user.
func usable(log *zap.Logger, projects []*agentcfg.ManifestProject) []*agentcfg.ManifestProject {
	seen := map[string]struct{}{}
	var usable []*agentcfg.ManifestProject
	for _, p := range projects {
		if _, twice := seen[p.GetId()]; twice || p.GetId() == "" {
			log.Error("Configuration names a manifest project twice or without an id; ignoring it", logging.Project(p.GetId()))
			continue
		}
		if len(usable) == maxProjects {
			log.Error("Configuration names too many manifest projects; ignoring the rest", zap.Int("limit", maxProjects))
			break
		}
		seen[p.GetId()] = struct{}{}
		usable = append(usable, p)
	}
	return usable
}

var (
	errNotConnected  = errors.New("not connected to kas")
	errNotConfigured = errors.New("no configuration received yet")
)

// link is how the agent stands with kas, for probes and metrics.
type link struct {
	metrics *metrics
	clock   clock.PassiveClock
	// standing is empty until kas has been reached, or not.
	standing desired.Slot[standing]

	mu        sync.Mutex
	hasConfig bool
	history   history
}

// standing says whether the agent is connected, and if not, why.
type standing struct {
	connected bool
	why       error
}

func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now, _, _ := l.standing.Get(); !now.connected {
		l.standing.Put(standing{connected: true})
		l.history.up(l.clock.Now())
	}
	l.metrics.connected.Set(1)
	l.metrics.offline.Set(0)
}

func (l *link) down(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now, _, _ := l.standing.Get(); now.connected {
		l.history.down(l.clock.Now(), err)
	}
	l.standing.Put(standing{why: err})
	l.metrics.connected.Set(0)
	if l.hasConfig {
		l.metrics.offline.Set(1)
	}
}

// unreachable says that kas cannot be reached, and why, unless kas itself has said more.
func (l *link) unreachable(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now, known, _ := l.standing.Get(); !known || !now.connected && refusal(now.why) == "" {
		l.standing.Put(standing{why: why})
	}
}

// tell fills in what an answer says of connections.
func (l *link) tell(into *agentrpc.DiagnoseResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.history.tell(into)
}

// ended counts the end of a stream.
func (l *link) ended(stream string, err error) {
	l.metrics.streamsEnded.WithLabelValues(stream, status.Code(err).String()).Inc()
}

func (l *link) configured() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hasConfig = true
	if now, known, _ := l.standing.Get(); known && !now.connected {
		l.metrics.offline.Set(1)
	}
}

// connectedCheck is a readiness check.
func (l *link) connectedCheck(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, _, _ := l.standing.Get()
	switch {
	case now.connected:
		return nil
	case now.why == nil:
		return errNotConnected
	case refusal(now.why) != "":
		return fmt.Errorf("%s: %w", refusal(now.why), now.why)
	case l.hasConfig:
		return fmt.Errorf("%w, healing from what it said last: %w", errNotConnected, now.why)
	default:
		return fmt.Errorf("%w: %w", errNotConnected, now.why)
	}
}

// configuredCheck is a readiness check.
func (l *link) configuredCheck(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.hasConfig {
		return errNotConfigured
	}
	return nil
}
