package query

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
)

// defaultMaxWatches is how many watches may be open at a time.
const defaultMaxWatches = 2000

// Cache shows what is known of objects. *cache.Cache of agentk/cache is one.
type Cache interface {
	// View returns the objects of a resource, once they are known.
	View(ctx context.Context, mapping *meta.RESTMapping, form objects.Form) (objects.View, error)
}

// Resources knows what the API server serves. *cluster.Cluster of agentk/cluster is one.
type Resources interface {
	// Mapping of a resource, in the version that the API server prefers where none is
	// named. It wraps gitops.ErrNotServed where there is none, and returns a
	// MethodNotSupported of apimachinery where it cannot be listed and watched.
	Mapping(ctx context.Context, gvr schema.GroupVersionResource) (*meta.RESTMapping, error)
	// Unserved has Mapping ask anew about the resources of a group: one of them has
	// turned out not to be served.
	Unserved(group string)
}

// Config of a Server.
type Config struct {
	// MaxWatches is how many may be open at a time; zero: 2,000.
	MaxWatches int
	Registerer prometheus.Registerer
	// Clock; nil: the real one.
	Clock clock.PassiveClock
}

// Server implements agentrpc.ClusterQueryServer.
type Server struct {
	agentrpc.UnimplementedClusterQueryServer

	cfg     Config
	source  source
	metrics *metrics
	watches atomic.Int64
}

// NewServer returns a Server, or an error about its metrics.
func NewServer(cfg Config, resources Resources, cache Cache) (*Server, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.MaxWatches <= 0 {
		cfg.MaxWatches = defaultMaxWatches
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of queries: %w", err)
	}
	return &Server{cfg: cfg, source: source{resources: resources, cache: cache}, metrics: m}, nil
}

// Get implements agentrpc.ClusterQueryServer.
func (s *Server) Get(ctx context.Context, req *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
	resp, err := s.get(ctx, req)
	s.metrics.ended("Get", err)
	if err == nil {
		s.metrics.items.WithLabelValues("Get").Inc()
	}
	return resp, err
}

// List implements agentrpc.ClusterQueryServer.
func (s *Server) List(req *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
	err := s.list(req, stream)
	s.metrics.ended("List", err)
	return err
}

// Watch implements agentrpc.ClusterQueryServer.
func (s *Server) Watch(req *clusterstate.WatchRequest, stream grpc.ServerStreamingServer[clusterstate.WatchResponse]) error {
	err := s.admit(req, stream)
	s.metrics.ended("Watch", err)
	return err
}

// admit watches, unless too many do.
func (s *Server) admit(req *clusterstate.WatchRequest, stream grpc.ServerStream) error {
	if s.watches.Add(1) > int64(s.cfg.MaxWatches) {
		s.watches.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "this agent has %d watches open, and no more are allowed: end some", s.cfg.MaxWatches)
	}
	s.metrics.watches.Inc()
	defer func() {
		s.watches.Add(-1)
		s.metrics.watches.Dec()
	}()
	return s.watch(req, stream)
}

func (s *Server) get(ctx context.Context, req *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
	gvr, err := resourceOf(req.GetResource())
	if err != nil {
		return nil, err
	}
	form, err := formOf(req.GetShape())
	if err != nil {
		return nil, err
	}
	if req.GetName() == "" {
		return nil, invalid("name is empty: name the object, or list them")
	}
	view, err := s.source.open(ctx, gvr, form)
	if err != nil {
		return nil, err
	}
	defer view.Release()
	fresh := view.Freshness()
	switch {
	case fresh.Namespaced && req.GetNamespace() == "":
		return nil, invalid("namespace is empty: %s are in namespaces, name one", resourceName(gvr))
	case !fresh.Namespaced && req.GetNamespace() != "":
		return nil, invalid("%s are in no namespace: leave namespace out", resourceName(gvr))
	}
	object := view.Get(req.GetNamespace(), req.GetName())
	if object == nil {
		return nil, status.Error(codes.NotFound, notFound(gvr, req.GetNamespace(), req.GetName()))
	}
	columns := view.Columns()
	return &clusterstate.GetResponse{
		Source:  sourceOf(fresh),
		Columns: columnsOf(columns),
		Item:    newEncoder(form, form, columns, s.cfg.Clock.Now()).message(object),
	}, nil
}

func notFound(gvr schema.GroupVersionResource, namespace, name string) string {
	if namespace == "" {
		return fmt.Sprintf("%s %q not found", resourceName(gvr), name)
	}
	return fmt.Sprintf("%s %q not found in namespace %q", resourceName(gvr), name, namespace)
}

// source is where Views come from.
type source struct {
	resources Resources
	cache     Cache
}

// open opens a View. Its error has a gRPC status.
func (s source) open(ctx context.Context, gvr schema.GroupVersionResource, form objects.Form) (objects.View, error) {
	view, err := s.try(ctx, gvr, form)
	if apierrors.IsNotFound(err) && ctx.Err() == nil {
		// What was known of the group is no longer so: perhaps another version is served.
		s.resources.Unserved(gvr.Group)
		view, err = s.try(ctx, gvr, form)
	}
	if err != nil {
		return nil, explain(ctx, gvr, err)
	}
	return view, nil
}

func (s source) try(ctx context.Context, gvr schema.GroupVersionResource, form objects.Form) (objects.View, error) {
	mapping, err := s.resources.Mapping(ctx, gvr)
	if err != nil {
		return nil, err
	}
	return s.cache.View(ctx, mapping, form)
}

// ended says that a View is of no more use.
func ended(view objects.View) bool {
	select {
	case <-view.Ended():
		return true
	default:
		return false
	}
}
