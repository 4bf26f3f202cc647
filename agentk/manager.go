package agentk

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/internal/logging"
)

// manager keeps one worker for each manifest project of the newest configuration.
type manager struct {
	log *zap.Logger
	// agentID is the agent that this replica leads; configurations of others are
	// not the manager's.
	agentID int64
	configs *desired.Slot[*configuration]
	// configure, unless nil, is told of the projects before they are worked on.
	configure func([]*agentcfg.ManifestProject)
	// work syncs one project until its context ends.
	work func(ctx context.Context, agentID int64, project *agentcfg.ManifestProject)
}

// running is a worker at work.
type running struct {
	project *agentcfg.ManifestProject
	cancel  context.CancelFunc
	ended   chan struct{}
}

// Run manages workers until ctx ends, and returns when they all have ended.
func (m *manager) Run(ctx context.Context) {
	workers := map[string]*running{}
	for {
		cfg, filled, newer := m.configs.Get()
		if filled && cfg.agentID == m.agentID {
			m.reconcile(ctx, workers, cfg)
		}
		select {
		case <-newer:
		case <-ctx.Done():
			stop(workers)
			return
		}
	}
}

// reconcile makes workers match cfg. A worker whose project changed has ended before
// its successor starts.
func (m *manager) reconcile(ctx context.Context, workers map[string]*running, cfg *configuration) {
	if m.configure != nil {
		m.configure(cfg.projects)
	}
	wanted := make(map[string]*agentcfg.ManifestProject, len(cfg.projects))
	for _, p := range cfg.projects {
		wanted[p.GetId()] = p
	}
	outdated := map[string]*running{}
	for id, w := range workers {
		p, stays := wanted[id]
		if stays && proto.Equal(w.project, p) {
			continue
		}
		if !stays {
			m.log.Info("Project left the configuration: syncing ends, its objects stay in the cluster", logging.Project(id))
		}
		outdated[id] = w
		delete(workers, id)
	}
	stop(outdated)
	for _, p := range cfg.projects {
		if _, ok := workers[p.GetId()]; !ok {
			m.log.Info("Syncing project", logging.Project(p.GetId()))
			workers[p.GetId()] = m.start(ctx, p)
		}
	}
}

func (m *manager) start(ctx context.Context, project *agentcfg.ManifestProject) *running {
	ctx, cancel := context.WithCancel(ctx)
	w := &running{project: project, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		m.work(ctx, m.agentID, project)
	}()
	return w
}

// stop ends workers, all at once, and waits for them.
func stop(workers map[string]*running) {
	for _, w := range workers {
		w.cancel()
	}
	for _, w := range workers {
		<-w.ended
	}
}
