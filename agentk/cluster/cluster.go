package cluster

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// FieldManager under which agentk applies.
const FieldManager = "agentk"

// Cache knows the live objects. *cache.Cache of agentk/cache is one.
type Cache interface {
	// Ensure has resources followed and waits until their objects are known. It
	// returns one error for each that fails.
	Ensure(ctx context.Context, mappings []*meta.RESTMapping) map[schema.GroupResource]error
	// Get returns an object as last seen.
	Get(gr schema.GroupResource, namespace, name string) (gitops.Live, bool)
	// Hold keeps resources followed until release is called.
	Hold(resources []schema.GroupResource) (release func())
	// Subscribe has a function called at every change, with the resource version
	// that it made, until stop is called.
	Subscribe(func(gr schema.GroupResource, namespace, name, resourceVersion string)) (stop func())
}

// Config is what a Cluster needs.
type Config struct {
	// RESTConfig of the API server. Its rate limits are ignored: the API server's
	// priority and fairness rules are the limit.
	RESTConfig *rest.Config
	// Namespace of agentk's own, for inventories.
	Namespace string
	// Cache of the same API server, with FieldManager as its own.
	Cache Cache
	// Clock; nil: the real one.
	Clock clock.PassiveClock
}

// Cluster implements gitops.Cluster. It may serve several projects at a time.
type Cluster struct {
	cfg       Config
	metadata  metadata.Interface
	discovery discovery.DiscoveryInterface
	resolver  *resolver
	storage   *storage
	recent    *recent

	mu          sync.Mutex
	inventories map[string]*inventory.Inventory
	// resources by kind and kinds by resource, of what was resolved.
	resources map[schema.GroupKind]schema.GroupResource
	kinds     map[schema.GroupResource]schema.GroupKind
	listeners map[int]listener
	next      int
}

var _ gitops.Cluster = (*Cluster)(nil)

// listener is one Notify.
type listener struct {
	kinds   map[schema.GroupKind]struct{}
	changed func(inventory.ID)
}

// New returns a Cluster. It asks the API server nothing.
func New(cfg Config) (*Cluster, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	rc := rest.CopyConfig(cfg.RESTConfig)
	rc.QPS = -1
	// What is deprecated is for whoever writes manifests to know, not for the log
	// of an agent that applies them again and again.
	rc.WarningHandler = rest.NoWarnings{}
	httpClient, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("make an HTTP client for the API server: %w", err)
	}
	transport := httpClient.Transport
	if transport == nil { // as for a kubectl proxy: plain HTTP, and no credentials
		transport = http.DefaultTransport
	}
	md, err := metadata.NewForConfigAndClient(rc, &http.Client{
		Transport: impatient{next: transport}, Timeout: httpClient.Timeout,
	})
	if err != nil {
		return nil, fmt.Errorf("make a metadata client: %w", err)
	}
	disc, err := discovery.NewDiscoveryClientForConfigAndClient(rc, httpClient)
	if err != nil {
		return nil, fmt.Errorf("make a discovery client: %w", err)
	}
	proto := rest.CopyConfig(rc)
	proto.ContentType = "application/vnd.kubernetes.protobuf"
	proto.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	typed, err := kubernetes.NewForConfigAndClient(proto, httpClient)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	c := &Cluster{
		cfg: cfg, metadata: md, discovery: disc,
		resolver:    newResolver(disc.RESTClient()),
		storage:     &storage{client: typed.CoreV1(), namespace: cfg.Namespace},
		recent:      newRecent(cfg.Clock),
		inventories: map[string]*inventory.Inventory{},
		resources:   map[schema.GroupKind]schema.GroupResource{},
		kinds:       map[schema.GroupResource]schema.GroupKind{},
		listeners:   map[int]listener{},
	}
	// For as long as the cache lives: it is wired to nothing else.
	_ = cfg.Cache.Subscribe(c.changed)
	return c, nil
}

// Forget drops what is remembered of inventories. Call it before projects are
// worked on that another process may have worked on meanwhile.
func (c *Cluster) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.inventories)
}

// Load implements gitops.Cluster.
func (c *Cluster) Load(ctx context.Context, id string) (*inventory.Inventory, error) {
	if problems := validation.IsDNS1123Label(id); len(problems) > 0 {
		return nil, fmt.Errorf("inventory ID %q: %s", id, strings.Join(problems, "; ")) //nolint:err113 // a mistake of the caller
	}
	c.mu.Lock()
	inv, ok := c.inventories[id]
	c.mu.Unlock()
	if ok {
		return inv, nil
	}
	inv, err := inventory.Load(ctx, c.storage, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inventories[id] = inv
	return inv, nil
}

// Save implements gitops.Cluster.
func (c *Cluster) Save(ctx context.Context, inv *inventory.Inventory) error {
	err := inv.Save(ctx, c.storage)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.inventories, inv.ID())
	}
	return err
}

// Notify implements gitops.Cluster.
func (c *Cluster) Notify(kinds []schema.GroupKind, changed func(inventory.ID)) (stop func()) {
	l := listener{kinds: make(map[schema.GroupKind]struct{}, len(kinds)), changed: changed}
	for _, k := range kinds {
		l.kinds[k] = struct{}{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.next
	c.next++
	c.listeners[n] = l
	var resources []schema.GroupResource
	for k := range l.kinds {
		if gr, ok := c.resources[k]; ok {
			resources = append(resources, gr)
		}
	}
	release := c.cfg.Cache.Hold(resources)
	return func() {
		release()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, n)
	}
}

// changed hears of a change from the cache.
func (c *Cluster) changed(gr schema.GroupResource, namespace, name, resourceVersion string) {
	c.mu.Lock()
	gk, ok := c.kinds[gr]
	var heard []func(inventory.ID)
	for _, l := range c.listeners {
		if _, interested := l.kinds[gk]; interested && ok {
			heard = append(heard, l.changed)
		}
	}
	c.mu.Unlock()
	if name == "" {
		c.resolver.forgetGroup(gr.Group)
	}
	if !ok {
		return
	}
	id := inventory.ID{GroupKind: gk, Namespace: namespace, Name: name}
	c.recent.seen(id, resourceVersion)
	for _, changed := range heard {
		changed(id)
	}
}

// Live implements gitops.Cluster.
func (c *Cluster) Live(id inventory.ID) (gitops.Live, bool) {
	c.mu.Lock()
	gr, ok := c.resources[id.GroupKind]
	c.mu.Unlock()
	if !ok {
		return gitops.Live{}, false
	}
	cached, found := c.cfg.Cache.Get(gr, id.Namespace, id.Name)
	return c.recent.newer(id, cached, found)
}
