package agentk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc/status"

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
}

// watcher holds the configuration stream open.
type watcher struct {
	log    *zap.Logger
	client agentrpc.AgentConfigurationClient
	// meta is asked at every connect.
	meta  func(context.Context) *agentrpc.AgentMeta
	token func() (string, error)
	link  *link
	// applyLogging has the log follow the configuration.
	applyLogging func(*agentcfg.Observability)
	configs      *desired.Slot[*configuration]
	policies     reopenPolicies
}

// Run publishes configurations until ctx ends.
func (w *watcher) Run(ctx context.Context) {
	keepOpen(ctx, w.log, w.policies, w.open, func(err error) {
		w.link.ended("configuration", err)
		w.link.down(err)
	})
}

func (w *watcher) open(ctx context.Context) error {
	if _, err := w.token(); err != nil {
		return fmt.Errorf("%w: %w", errToken, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // hangs up
	held, _, _ := w.configs.Get()
	request := &agentrpc.WatchRequest{AgentMeta: w.meta(ctx)}
	if held != nil {
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
	}
}

func (w *watcher) take(response *agentrpc.WatchResponse) {
	cfg := &configuration{
		agentID:  response.GetAgentId(),
		commit:   response.GetCommitId(),
		projects: w.usable(response.GetConfiguration().GetGitops().GetManifestProjects()),
	}
	w.log.Info("Configuration received", logging.AgentID(cfg.agentID), zap.String("agent_name", response.GetAgentName()),
		logging.Commit(cfg.commit), zap.Int("projects", len(cfg.projects)))
	w.applyLogging(response.GetConfiguration().GetObservability())
	w.configs.Put(cfg)
	w.link.configured()
}

// usable drops what cannot be worked on. kas checks the same, and tells the user.
func (w *watcher) usable(projects []*agentcfg.ManifestProject) []*agentcfg.ManifestProject {
	seen := map[string]struct{}{}
	var usable []*agentcfg.ManifestProject
	for _, p := range projects {
		if _, twice := seen[p.GetId()]; twice || p.GetId() == "" {
			w.log.Error("Configuration names a manifest project twice or without an id; ignoring it", logging.Project(p.GetId()))
			continue
		}
		if len(usable) == maxProjects {
			w.log.Error("Configuration names too many manifest projects; ignoring the rest", zap.Int("limit", maxProjects))
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

	mu        sync.Mutex
	connected bool
	hasConfig bool
	// why the agent is not connected; nil where nothing is known.
	why error
}

func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connected, l.why = true, nil
	l.metrics.connected.Set(1)
}

func (l *link) down(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connected, l.why = false, err
	l.metrics.connected.Set(0)
}

// ended counts the end of a stream.
func (l *link) ended(stream string, err error) {
	l.metrics.streamsEnded.WithLabelValues(stream, status.Code(err).String()).Inc()
}

func (l *link) configured() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hasConfig = true
}

// connectedCheck is a readiness check.
func (l *link) connectedCheck(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.connected:
		return nil
	case l.why == nil:
		return errNotConnected
	case refusal(l.why) != "":
		return fmt.Errorf("%s: %w", refusal(l.why), l.why)
	default:
		return fmt.Errorf("%w: %w", errNotConnected, l.why)
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
