package gitops

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/inventory"
)

// awaitKinds has served hear when a kind is served that the run missed, because
// somebody else has made its CRD. It asks the API server once at first, for that may
// have been just after the run, and then only after a CRD of the kind's group has
// changed.
func (w *watcher) awaitKinds(ctx context.Context, kinds []schema.GroupVersionKind) (stop func()) {
	if len(kinds) == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if w.servesOne(ctx, kinds) {
			w.askRetry()
		}
	})
	return func() {
		cancel()
		waiting.Wait()
	}
}

// awaitHomes has served hear when a namespace is there that the run missed, because
// somebody else has made it. One that the cluster shows at first is none to wait for:
// what was wrong with it is for the retries to find out.
func (w *watcher) awaitHomes(ctx context.Context, homes map[string]struct{}) (stop func()) {
	if len(homes) == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if w.hasHome(ctx, homes) {
			w.askRetry()
		}
	})
	return func() {
		cancel()
		waiting.Wait()
	}
}

// hasHome returns true once one of the namespaces has come, and false when ctx ends or
// namespaces cannot be followed.
func (w *watcher) hasHome(ctx context.Context, homes map[string]struct{}) bool {
	kind := namespaceKind.WithVersion("")
	found, err := w.cluster.Resolve(ctx, []schema.GroupVersionKind{kind})
	if err != nil || found[kind].Err != nil {
		return false
	}
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	stop := w.cluster.Notify([]schema.GroupKind{namespaceKind}, func(id inventory.ID) {
		if _, ok := homes[id.Name]; !ok {
			return
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	defer stop()
	missed := map[string]struct{}{}
	for {
		select {
		case <-wake:
		case <-ctx.Done():
			return false
		}
		for name := range homes {
			live, exists := w.cluster.Live(inventory.ID{GroupKind: namespaceKind, Name: name})
			if !exists || beingDeleted(live) {
				missed[name] = struct{}{}
			} else if _, was := missed[name]; was {
				return true
			}
		}
	}
}

// servesOne returns true once the API server serves one of the kinds, and false when
// ctx ends.
func (w *watcher) servesOne(ctx context.Context, kinds []schema.GroupVersionKind) bool {
	wake := make(chan struct{}, 1)
	// Without CRDs being followed, the API server is asked only once.
	_, _ = w.cluster.Resolve(ctx, []schema.GroupVersionKind{definitionKind.WithVersion("")})
	stop := w.cluster.Notify([]schema.GroupKind{definitionKind}, func(id inventory.ID) {
		if !slices.ContainsFunc(kinds, func(k schema.GroupVersionKind) bool { return definesKindOf(id, k.Group) }) {
			return
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	defer stop()
	if servesAny(ctx, w.cluster, kinds) {
		return true
	}
	for {
		select {
		case <-wake:
		case <-ctx.Done():
			return false
		}
		if pollServed(ctx, w.clock, w.cluster, kinds) {
			return true
		}
	}
}

// definesKindOf says that a CRD of that name, "<plural>.<group>", is of the group.
func definesKindOf(id inventory.ID, group string) bool {
	_, of, _ := strings.Cut(id.Name, ".")
	return of == group
}

// pollServed asks again and again, for a CRD is served some time after it is made.
func pollServed(ctx context.Context, clk clock.Clock, c Cluster, kinds []schema.GroupVersionKind) bool {
	end := clk.Now().Add(servedTimeout)
	for pause := firstServedPause; clk.Now().Before(end); pause = min(2*pause, time.Second) {
		if servesAny(ctx, c, kinds) {
			return true
		}
		t := clk.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return false
		}
	}
	return false
}

// servesAny asks which of the kinds are served by now. That they could not be asked
// for is no news.
func servesAny(ctx context.Context, c Cluster, kinds []schema.GroupVersionKind) bool {
	found, err := c.Resolve(ctx, kinds)
	if err != nil {
		return false
	}
	for _, kind := range found {
		if kind.Err == nil {
			return true
		}
	}
	return false
}
