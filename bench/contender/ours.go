package contender

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/bench/objects"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// ours is the engine as agentk wires it (agentk/kubernetes.go).
type ours struct {
	cluster *cluster.Cluster
	stop    context.CancelFunc
	running errgroup.Group
}

func newOurs(ctx context.Context, cfg Config) (*ours, error) {
	rc, err := cfg.restConfig()
	if err != nil {
		return nil, err
	}
	objects, err := cache.New(cache.Config{RESTConfig: rc, FieldManager: cluster.FieldManager, Log: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{RESTConfig: rc, Namespace: cfg.Namespace, Cache: objects})
	if err != nil {
		return nil, err
	}
	o := &ours{cluster: c}
	ctx, o.stop = context.WithCancel(ctx)
	o.running.Go(func() error { return objects.Run(ctx) })
	return o, nil
}

func (o *ours) prepare(project string, _ Phase, set []objects.Object) (syncFunc, error) {
	d := gitops.Desired{Commit: "bench", Set: manifests.Set{Complete: true, Objects: make([]manifests.Object, 0, len(set))}}
	for i := range set {
		gv, err := schema.ParseGroupVersion(set[i].APIVersion)
		if err != nil {
			return nil, fmt.Errorf("object: %w", err)
		}
		d.Set.Objects = append(d.Set.Objects, manifests.Object{
			ID: inventory.ID{
				GroupKind: gv.WithKind(set[i].Kind).GroupKind(), Namespace: set[i].Namespace, Name: set[i].Name,
			},
			JSON: set[i].JSON, Digest: sha256.Sum256(set[i].JSON),
			Position: manifests.Position{Path: "all.yaml", Line: i + 1},
		})
	}
	p := gitops.Project{
		Key: project, DefaultNamespace: "default", Prune: true, AllowEmpty: true,
		Policy: inventory.PolicyMustMatch, Propagation: "Background",
		Guard: gitops.Guard{MaxPercent: 100}, RecordLate: true,
	}
	return func(ctx context.Context) (time.Time, error) {
		var seen observer
		result, err := gitops.Run(ctx, o.cluster, p, d, &seen)
		settled := time.Now()
		if err != nil {
			return settled, err
		}
		// What is left to be recorded costs requests and CPU, too.
		ended, end := context.WithCancel(ctx)
		end()
		if err := gitops.Watch(ended, o.cluster, p, result, &seen, gitops.WatchConfig{}); err != nil {
			return settled, err
		}
		if result.HeldBack != "" {
			seen.add("prune", result.HeldBack)
		}
		return settled, seen.err()
	}, nil
}

func (o *ours) close() error {
	o.stop()
	return o.running.Wait()
}

// observer notes what failed.
type observer struct{ failures }

// Object implements gitops.Observer.
func (o *observer) Object(s gitops.ObjectStatus) {
	if s.Action == gitops.ActionFailed || s.Action == gitops.ActionSkipped {
		o.add(s.ID.String(), s.Message)
	}
}

// Removed implements gitops.Observer.
func (o *observer) Removed(inventory.ID) {}
