package agentk

import (
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// settleTimeout is how long the projects wait for each other's newest sets, after the
// agent has begun to follow one, before they delete anything: an object may have moved
// from one to another meanwhile. A project that cannot be read holds the others up no
// longer than that.
const settleTimeout = 10 * time.Second

// wants knows what the newest set of each manifest project of the agent holds, so
// that an object can move between them without being deleted. Its methods may be
// called by any goroutine.
type wants struct {
	clock clock.PassiveClock

	mu sync.Mutex
	// projects by the ID that the configuration names them by.
	projects map[string]*want
	changed  chan struct{}
}

// want is what one project wants.
type want struct {
	since     time.Time
	namespace string
	// key of the inventory, and the set; empty while it is not known.
	key string
	set *desired.Set
	// ids of the set, made when they are first asked for.
	ids map[inventory.ID]struct{}
}

func newWants(c clock.PassiveClock) *wants {
	return &wants{clock: c, projects: map[string]*want{}, changed: make(chan struct{})}
}

// reset forgets everything: another replica has led meanwhile.
func (ws *wants) reset() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	clear(ws.projects)
	ws.tell()
}

// configure says which projects there are. What is known of those that stay is kept.
func (ws *wants) configure(projects []*agentcfg.ManifestProject) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	old := ws.projects
	ws.projects = make(map[string]*want, len(projects))
	for _, p := range projects {
		w := old[p.GetId()]
		if w == nil {
			w = &want{since: ws.clock.Now()}
		}
		w.namespace = defaultNamespace(p)
		ws.projects[p.GetId()] = w
	}
	ws.tell()
}

// put says which set is the newest of a project. A restored one is not newer than any.
func (ws *wants) put(projectID, key string, set *desired.Set) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w, ok := ws.projects[projectID]
	if !ok {
		return // it has just left the configuration
	}
	if set.Restored && w.set != nil {
		return
	}
	w.key, w.set, w.ids = key, set, nil
	ws.tell()
}

// tell wakes those who wait for news. mu is held.
func (ws *wants) tell() {
	close(ws.changed)
	ws.changed = make(chan struct{})
}

// news returns a channel that is closed when a project wants something else.
func (ws *wants) news() <-chan struct{} {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.changed
}

// others is what the project with this inventory sees of the others.
func (ws *wants) others(key string) gitops.Others { return &others{wants: ws, key: key} }

type others struct {
	wants *wants
	key   string
}

// WantedBy implements gitops.Others.
func (o *others) WantedBy(id inventory.ID) (string, bool) {
	o.wants.mu.Lock()
	defer o.wants.mu.Unlock()
	for _, w := range o.wants.projects {
		if w.set != nil && w.key != o.key && w.holds(id) {
			return w.key, true
		}
	}
	return "", false
}

// Released implements gitops.Others. What is missing from a set that could not be
// read completely, or that kas has not confirmed, may be in the newest.
func (o *others) Released(key string, id inventory.ID) bool {
	o.wants.mu.Lock()
	defer o.wants.mu.Unlock()
	if key == o.key {
		return false
	}
	for _, w := range o.wants.projects {
		if w.key == key && w.set != nil {
			return w.set.Set.Complete && !w.set.Restored && !w.holds(id)
		}
	}
	return false
}

// Settled implements gitops.Others.
func (o *others) Settled() bool {
	o.wants.mu.Lock()
	defer o.wants.mu.Unlock()
	for _, w := range o.wants.projects {
		known := w.set != nil && !w.set.Restored
		if !known && w.key != o.key && o.wants.clock.Since(w.since) < settleTimeout {
			return false
		}
	}
	return true
}

// holds says whether the set holds an object that has this ID in the cluster. There,
// only what lives in no namespace has none; in a manifest, it may be left out, and
// may be there although the kind knows none.
func (w *want) holds(id inventory.ID) bool {
	if w.ids == nil {
		objects := w.set.Set.Objects
		w.ids = make(map[inventory.ID]struct{}, len(objects))
		for i := range objects {
			w.ids[objects[i].ID] = struct{}{}
		}
	}
	if _, ok := w.ids[id]; ok {
		return true
	}
	bare := id
	bare.Namespace = ""
	switch id.Namespace {
	case w.namespace:
		_, ok := w.ids[bare]
		return ok
	case "":
		for other := range w.ids {
			if other.Namespace = ""; other == bare {
				return true
			}
		}
	}
	return false
}

// defaultNamespace of a project's objects.
func defaultNamespace(p *agentcfg.ManifestProject) string {
	if p.GetDefaultNamespace() == "" {
		return "default"
	}
	return p.GetDefaultNamespace()
}
