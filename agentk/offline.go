package agentk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/logging"
)

// What an agent does that was started while kas is away. All of it needs a state
// directory; without one the agent waits for kas.

// firstSetGrace is how long a kas that is there may take to send the first set. Then
// the cluster is healed from the last good one: Gitaly may be away, say.
const firstSetGrace = 10 * time.Second

// openStore opens the store in dir. What goes wrong with single files later is told
// to the log and the metrics, and harms nothing else.
func openStore(dir string, cfg *Config, m *metrics) (*desired.Store, error) {
	var mu sync.Mutex
	failed := map[string]bool{}
	store, err := desired.OpenStore(desired.StoreConfig{
		Dir: dir, Limits: desired.DefaultLimits(), Clock: cfg.Clock,
		Wrote: func(file string, err error) {
			mu.Lock()
			again := failed[file]
			failed[file] = err != nil
			mu.Unlock()
			if err == nil {
				m.stateWrites.WithLabelValues("ok").Inc()
				return
			}
			m.stateWrites.WithLabelValues("error").Inc()
			if !again {
				cfg.Log.Warn("State cannot be written to --state-dir; syncing goes on, but should agentk restart while kas is away, "+
					"it will not heal from it", zap.String("file", file), zap.Error(err))
			}
		},
		SetAside: func(file string, err error) {
			cfg.Log.Warn("State file in --state-dir cannot be used, it is set aside", zap.String("file", file), zap.Error(err))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	return store, nil
}

// keep has the store write until stop is called, which waits for it.
func (a *Agent) keep(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.store.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// restore goes on with the kept configuration once it is known that kas is away. A
// kas that is there says itself what to do, or that this agent is not welcome.
func (a *Agent) restore(ctx context.Context) {
	for {
		_, filled, received := a.configs.Get()
		standing, known, changed := a.link.standing.Get()
		switch {
		case filled:
			return
		case known && !standing.connected && refusal(standing.why) == "":
			a.restoreConfiguration()
			return
		}
		select {
		case <-received:
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) restoreConfiguration() {
	token, err := a.cfg.token()
	if err != nil {
		return // the watcher says so
	}
	response, err := a.store.Configuration(token)
	if err != nil {
		a.cfg.Log.Warn("kas is away, and there is no state to go on with: waiting for kas", zap.Error(err))
		return
	}
	cfg := configurationOf(a.cfg.Log, response)
	cfg.restored = true
	if !a.configs.Offer(cfg) {
		return
	}
	a.cfg.Log.Warn("kas is away: going on with the last good configuration",
		logging.AgentID(cfg.agentID), logging.Commit(cfg.commit), zap.Int("projects", len(cfg.projects)))
	a.cfg.apply(response.GetConfiguration())
	a.link.configured()
}

// keepConfiguration is the watcher's.
func (a *Agent) keepConfiguration(token string, response *agentrpc.WatchResponse) {
	if a.store != nil {
		a.store.KeepConfiguration(token, response)
	}
}

// enter tells the store that a term begins.
func (a *Agent) enter(agentID, term int64) {
	if a.store == nil {
		return
	}
	if err := a.store.Lead(agentID, term); err != nil {
		a.metrics.stateWrites.WithLabelValues("error").Inc()
		a.cfg.Log.Warn("State cannot be written to --state-dir", zap.Error(err))
	}
}

// restore takes up what the store kept of the project: the receiver has its objects,
// so that kas need not send them again, and the set that is returned, unless nil, is
// good for healing.
func (w *worker) restore() *desired.Set {
	if w.store == nil {
		return nil
	}
	kept, err := w.store.Set(w.agentID, w.project)
	switch {
	case errors.Is(err, desired.ErrNotKept):
		return nil
	case err != nil:
		w.log.Warn("The last good set cannot be read", zap.Error(err))
		return nil
	}
	w.receiver = kept.Receiver
	if !kept.Newest {
		w.log.Info("The set in --state-dir is not the newest, and not used for healing", logging.Commit(kept.Set.Commit))
		return nil
	}
	key := inventoryKey(w.agentID, kept.Set.ProjectID)
	if _, ok := w.claims.claim(key, w.project.GetId()); !ok {
		return nil
	}
	w.key = key
	return kept.Set
}

// offer gives the restored set to the loop if kas is away, or does not send one.
func (w *worker) offer(ctx context.Context, set *desired.Set) {
	if set == nil {
		return
	}
	grace := w.clock.NewTimer(firstSetGrace)
	defer grace.Stop()
	for {
		_, filled, received := w.sets.Get()
		standing, known, changed := w.link.standing.Get()
		switch {
		case filled:
			return
		case known && !standing.connected:
			w.heal(set, "kas is away")
			return
		}
		select {
		case <-received:
		case <-changed:
		case <-grace.C():
			w.heal(set, "kas has sent no set yet")
			return
		case <-ctx.Done():
			return
		}
	}
}

func (w *worker) heal(set *desired.Set, why string) {
	w.wants.put(w.project.GetId(), inventoryKey(w.agentID, set.ProjectID), set)
	w.wants.put(w.project.GetId(), inventoryKey(w.agentID, set.ProjectID), set)
	if w.sets.Offer(set) {
		w.log.Warn(why+": healing from the last good set of commit "+set.Commit+"; nothing is deleted until kas confirms it",
			logging.Commit(set.Commit), zap.String("ref", set.Ref), zap.Int("objects", len(set.Set.Objects)))
	}
}
