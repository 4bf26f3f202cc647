package engine_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// agent is an engine as agentk wires it, with namespaces of its own and a count of
// its requests.
type agent struct {
	t       *testing.T
	cluster *cluster.Cluster
	// namespace for objects, and where the inventories are.
	namespace string
	project   gitops.Project
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	requests  *counter
	stop      func()
}

// newAgent starts an engine.
func newAgent(t *testing.T) *agent {
	t.Helper()
	rc := rest.CopyConfig(server)
	rc.QPS = -1
	client, err := kubernetes.NewForConfig(rc)
	require.NoError(t, err)
	dyn, err := dynamic.NewForConfig(rc)
	require.NoError(t, err)
	ns, err := client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "engine-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	a := &agent{
		t: t, namespace: ns.Name, client: client, dynamic: dyn,
		project: gitops.Project{
			Key: "1-" + strings.TrimPrefix(ns.Name, "engine-"), DefaultNamespace: ns.Name, Prune: true,
			Propagation: "Background", Agent: "1", Name: "group/app",
		},
	}
	a.start(server)
	return a
}

// start starts the agent's process, so to speak.
func (a *agent) start(rc *rest.Config) {
	a.t.Helper()
	a.requests = &counter{}
	counted := rest.CopyConfig(rc)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper { return a.requests.wrap(next) })
	objects, err := cache.New(cache.Config{RESTConfig: counted, FieldManager: cluster.FieldManager, Log: testkit.Logger(a.t)})
	require.NoError(a.t, err)
	a.cluster, err = cluster.New(cluster.Config{RESTConfig: counted, Namespace: a.namespace, Cache: objects})
	require.NoError(a.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.t.Context()))
	var g errgroup.Group
	g.Go(func() error { return objects.Run(ctx) })
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); err != nil {
			a.t.Errorf("cache: %v", err)
		}
	})
	a.t.Cleanup(func() { a.stop() })
}

// restart is a crash and a new process.
func (a *agent) restart() {
	a.t.Helper()
	a.stop()
	a.start(server)
}

// sync runs the engine once.
func (a *agent) sync(yamls ...string) (gitops.Result, *log) {
	a.t.Helper()
	l := newLog()
	result, err := gitops.Run(a.t.Context(), a.cluster, a.project, desired(a.t, yamls...), l)
	require.NoError(a.t, err)
	return result, l
}

// sees waits until the agent has heard of a ConfigMap that somebody else has made.
func (a *agent) sees(name string) {
	a.t.Helper()
	id := inventory.ID{GroupKind: schema.GroupKind{Kind: "ConfigMap"}, Namespace: a.namespace, Name: name}
	testkit.Eventually(a.t, func() error {
		if _, ok := a.cluster.Live(id); !ok {
			return fmt.Errorf("%s is not known", id)
		}
		return nil
	})
}

// data of a ConfigMap.
func (a *agent) data(name string) map[string]string {
	a.t.Helper()
	cm, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(a.t.Context(), name, metav1.GetOptions{})
	require.NoError(a.t, err)
	return cm.Data
}

// follow tells see how a ConfigMap is, each time it has changed, until see is true or the test
// ends. A busy API server ends watches: then another one begins.
func (a *agent) follow(name string, see func(*corev1.ConfigMap) bool) {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	begin := func() (apiwatch.Interface, error) {
		return a.client.CoreV1().ConfigMaps(a.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	}
	changes, err := begin()
	require.NoError(a.t, err)
	var following sync.WaitGroup
	following.Go(func() {
		for {
			for e := range changes.ResultChan() {
				if cm, ok := e.Object.(*corev1.ConfigMap); ok && see(cm) {
					changes.Stop()
					return
				}
			}
			if changes, err = begin(); err != nil {
				if ctx.Err() == nil {
					a.t.Errorf("follow %s: %v", name, err)
				}
				return
			}
		}
	})
	a.t.Cleanup(func() {
		cancel()
		following.Wait()
	})
}

// inventory as it is stored.
func (a *agent) inventory() []string {
	a.t.Helper()
	list, err := a.client.CoreV1().ConfigMaps(a.namespace).List(a.t.Context(), metav1.ListOptions{
		LabelSelector: inventory.Label + "=" + a.project.Key,
	})
	require.NoError(a.t, err)
	var keys []string
	for _, cm := range list.Items {
		for key := range cm.Data {
			keys = append(keys, key)
		}
	}
	return keys
}

// desired makes a complete set of YAML documents.
func desired(t *testing.T, yamls ...string) gitops.Desired {
	t.Helper()
	d := gitops.Desired{Commit: "c0ffee", Set: manifests.Set{Complete: true}}
	line := 1
	for _, doc := range strings.Split(strings.Join(yamls, "\n---\n"), "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var content map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(doc), &content))
		u := &unstructured.Unstructured{Object: content}
		data, err := json.Marshal(content)
		require.NoError(t, err)
		d.Set.Objects = append(d.Set.Objects, manifests.Object{
			ID: inventory.IDOf(u), JSON: data, Digest: sha256.Sum256(data),
			Position: manifests.Position{Path: "all.yaml", Line: line},
		})
		line += strings.Count(doc, "\n") + 2
	}
	return d
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  key: %q\n", name, value)
}

// log is an Observer that keeps the newest status of each object.
type log struct {
	mu      sync.Mutex
	newest  map[string]gitops.ObjectStatus
	removed []string
}

func newLog() *log { return &log{newest: map[string]gitops.ObjectStatus{}} }

func (l *log) Object(s gitops.ObjectStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest[s.ID.GroupKind.Kind+"/"+s.ID.Name] = s
}

func (l *log) Removed(id inventory.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removed = append(l.removed, id.GroupKind.Kind+"/"+id.Name)
}

func (l *log) get(name string) gitops.ObjectStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest[name]
}

// counter counts requests that are not watches.
type counter struct {
	writes, reads atomic.Int64
	// deleted is when the newest DELETE was answered; nil: there was none.
	deleted atomic.Pointer[time.Time]
}

func (c *counter) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		switch {
		case r.Method != http.MethodGet:
			c.writes.Add(1)
		case r.URL.Query().Get("watch") == "":
			c.reads.Add(1)
		}
		resp, err := next.RoundTrip(r)
		if r.Method == http.MethodDelete {
			now := time.Now()
			c.deleted.Store(&now)
		}
		return resp, err
	})
}

func (c *counter) reset() {
	c.writes.Store(0)
	c.reads.Store(0)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
