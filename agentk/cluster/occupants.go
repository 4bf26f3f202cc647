package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

const (
	// occupantsParallel is how many kinds of objects are asked for at a time.
	occupantsParallel = 16
	// occupantsPage is how many objects of a kind are asked for at once: most
	// namespaces hold few, and a few are all that people are told of.
	occupantsPage = 200
)

var (
	errNotListed  = errors.New("its instances cannot be listed, for its kind is not served")
	errNoOccupant = errors.New("only namespaces and CRDs have occupants")
)

// listable is a kind whose objects can be listed.
type listable struct {
	resource schema.GroupVersionResource
	kind     schema.GroupKind
}

// Occupants implements gitops.Cluster.
func (c *Cluster) Occupants(ctx context.Context, id inventory.ID, ours func(inventory.ID) bool) ([]inventory.ID, bool, error) {
	f := &finder{metadata: c.metadata, ours: ours, ids: map[types.UID]inventory.ID{}, ignored: map[types.UID]struct{}{}}
	var kinds []listable
	var err error
	switch id.GroupKind {
	case schema.GroupKind{Kind: "Namespace"}:
		f.namespace = id.Name
		kinds, err = c.namespacedKinds()
	case definitionKind:
		kinds, err = c.instances(id.Name)
	default:
		err = errNoOccupant
	}
	if err != nil {
		return nil, false, err
	}
	if err := f.find(ctx, kinds); err != nil {
		return nil, false, explain(err)
	}
	ids, more := f.result()
	return ids, more, nil
}

// definitionKind is that of CRDs.
var definitionKind = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}

// namespacedKinds asks for everything that may live in a namespace.
func (c *Cluster) namespacedKinds() ([]listable, error) {
	lists, err := c.discovery.ServerPreferredNamespacedResources()
	if err != nil {
		return nil, served(err)
	}
	return listables(lists, func(schema.GroupVersion, *metav1.APIResource) bool { return true })
}

// instances asks for the kind that a CRD of this name defines: "<plural>.<group>".
func (c *Cluster) instances(name string) ([]listable, error) {
	plural, group, _ := strings.Cut(name, ".")
	lists, err := c.discovery.ServerPreferredResources()
	kinds, listErr := listables(lists, func(gv schema.GroupVersion, r *metav1.APIResource) bool {
		return gv.Group == group && r.Name == plural
	})
	switch {
	case listErr != nil:
		return nil, listErr
	case len(kinds) > 0:
		return kinds, nil // another group may well be down
	case err != nil:
		return nil, served(err)
	default:
		return nil, errNotListed
	}
}

// served explains why it could not be found out what is served: some groups may not
// answer, or the API server does not.
func served(err error) error {
	if discovery.IsGroupDiscoveryFailedError(err) {
		return err
	}
	return fmt.Errorf("ask for the kinds that are served: %w", explain(err))
}

func listables(lists []*metav1.APIResourceList, want func(schema.GroupVersion, *metav1.APIResource) bool) ([]listable, error) {
	var out []listable
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("read what is served: %w", err)
		}
		for i := range list.APIResources {
			r := &list.APIResources[i]
			if slices.Contains(r.Verbs, "list") && want(gv, r) {
				out = append(out, listable{resource: gv.WithResource(r.Name), kind: schema.GroupKind{Group: gv.Group, Kind: r.Kind}})
			}
		}
	}
	return out, nil
}

// finder gathers occupants.
type finder struct {
	metadata metadata.Interface
	// namespace to look in; empty: all.
	namespace string
	ours      func(inventory.ID) bool

	mu sync.Mutex
	// ids of what was found, by UID: one object may be served as two kinds.
	ids map[types.UID]inventory.ID
	// ignored objects, which do not count as whichever kind they are found.
	ignored map[types.UID]struct{}
	// more: some were not looked at, because there were enough.
	more bool
}

// find lists kinds side by side.
func (f *finder) find(ctx context.Context, kinds []listable) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(occupantsParallel)
	for _, kind := range kinds {
		g.Go(func() error { return f.list(ctx, kind) })
	}
	return g.Wait()
}

func (f *finder) list(ctx context.Context, kind listable) error {
	client := f.metadata.Resource(kind.resource).Namespace(f.namespace)
	opts := metav1.ListOptions{Limit: occupantsPage}
	for {
		page, err := client.List(ctx, opts)
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			return nil // it is not served any more
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", kind.resource.GroupResource(), err)
		}
		full := f.add(kind.kind, page.Items)
		if page.Continue == "" {
			return nil
		}
		if full {
			f.stop()
			return nil
		}
		opts.Continue = page.Continue
	}
}

// stop notes that there are others.
func (f *finder) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.more = true
}

// add takes in what counts, and returns true if that is enough.
func (f *finder) add(kind schema.GroupKind, items []metav1.PartialObjectMetadata) (full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range items {
		o := &items[i]
		id := inventory.ID{GroupKind: kind, Namespace: o.Namespace, Name: o.Name}
		if o.UID == "" { // not stored, as the metrics of pods are not
			continue
		}
		if f.ours(id) || byKubernetes(id, o) || metav1.GetControllerOfNoCopy(o) != nil {
			f.ignored[o.UID] = struct{}{}
			continue
		}
		if old, ok := f.ids[o.UID]; !ok || kind.Group < old.GroupKind.Group {
			f.ids[o.UID] = id
		}
	}
	return len(f.ids) > gitops.MaxOccupants
}

// byKubernetes says that Kubernetes itself put the object into its namespace, and
// would do so again.
func byKubernetes(id inventory.ID, o *metav1.PartialObjectMetadata) bool {
	switch id.GroupKind {
	case schema.GroupKind{Kind: "ConfigMap"}:
		return id.Name == "kube-root-ca.crt"
	case schema.GroupKind{Kind: "ServiceAccount"}:
		return id.Name == "default"
	case schema.GroupKind{Kind: "Secret"}:
		return o.Annotations["kubernetes.io/service-account.name"] == "default"
	case schema.GroupKind{Kind: "Event"}, schema.GroupKind{Group: "events.k8s.io", Kind: "Event"}:
		return true
	case schema.GroupKind{Kind: "Endpoints"}:
		// The endpoints controller marks what it makes for a Service.
		return o.Labels["endpoints.kubernetes.io/managed-by"] != "" || o.Annotations["endpoints.kubernetes.io/last-change-trigger-time"] != ""
	default:
		return false
	}
}

// result returns what was found, sorted.
func (f *finder) result() (ids []inventory.ID, more bool) {
	for uid, id := range f.ids {
		if _, ignored := f.ignored[uid]; !ignored {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b inventory.ID) int { return strings.Compare(a.String(), b.String()) })
	if len(ids) > gitops.MaxOccupants {
		return ids[:gitops.MaxOccupants], true
	}
	return ids, f.more
}
