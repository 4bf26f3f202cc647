package contender

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/kas-agentk/kas/bench/objects"
)

// fluxConcurrency is how many objects are compared with the cluster at a time.
// kustomize-controller's default is 4; this is the raw limit's. What differs is
// applied, and what left is deleted, one by one: that cannot be set.
const fluxConcurrency = rawParallel

// flux is Flux's engine as its kustomize-controller wires it: a client without a
// cache, which reads each object before it compares a dry run with it, and a set of
// known objects from which what left is deleted.
type flux struct {
	manager *ssa.ResourceManager
	// held is what the controller keeps in the status of its Kustomization.
	held map[string][]objects.Object
}

func newFlux(cfg Config) (*flux, error) {
	rc, err := cfg.restConfig()
	if err != nil {
		return nil, err
	}
	httpClient, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("make an HTTP client: %w", err)
	}
	// Learns of new kinds when it is asked for one.
	mapper, err := apiutil.NewDynamicRESTMapper(rc, httpClient)
	if err != nil {
		return nil, fmt.Errorf("make a REST mapper: %w", err)
	}
	c, err := client.New(rc, client.Options{HTTPClient: httpClient, Mapper: mapper, Scheme: runtime.NewScheme()})
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	m := ssa.NewResourceManager(c, newPoller(c, mapper), ssa.Owner{Field: "bench-flux", Group: "bench.example.com"})
	m.SetConcurrency(fluxConcurrency)
	return &flux{manager: m, held: map[string][]objects.Object{}}, nil
}

func newPoller(c client.Client, mapper meta.RESTMapper) *polling.StatusPoller {
	return polling.NewStatusPoller(c, mapper, polling.Options{})
}

func (f *flux) close() error { return nil }

func (f *flux) prepare(project string, phase Phase, set []objects.Object) (syncFunc, error) {
	list := set
	if phase == Prune {
		list = f.held[project]
	}
	f.held[project] = set
	decoded, err := decode(list)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (time.Time, error) {
		if phase == Prune {
			_, err := f.manager.DeleteAll(ctx, decoded, ssa.DefaultDeleteOptions())
			return time.Now(), wrap("delete", err)
		}
		opts := ssa.DefaultApplyOptions()
		// How often it looks whether definitions and namespaces are ready; the
		// default of two seconds would be all that one saw of it.
		opts.WaitInterval = 100 * time.Millisecond
		f.manager.SetOwnerLabels(decoded, project, "bench")
		if err := normalize.UnstructuredList(decoded); err != nil {
			return time.Now(), wrap("normalize", err)
		}
		_, err := f.manager.ApplyAllStaged(ctx, decoded, opts)
		return time.Now(), wrap("apply", err)
	}, nil
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
