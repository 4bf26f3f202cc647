package agentk

import (
	"context"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/agentk/query"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/objects"
)

// maxPreload bounds what is kept of the cluster from the start. kas's limit is the same.
const maxPreload = 200

// clusterState answers questions about the cluster.
type clusterState struct {
	log    *zap.Logger
	cache  *cache.Cache
	server *query.Server
	keeper *query.Keeper
}

func newClusterState(cfg *Config, known *cache.Cache, served *cluster.Cluster) (*clusterState, error) {
	server, err := query.NewServer(query.Config{Registerer: cfg.Registry}, served, known)
	if err != nil {
		return nil, err
	}
	return &clusterState{
		log: cfg.Log, cache: known, server: server,
		keeper: query.NewKeeper(query.KeeperConfig{Log: cfg.Log}, served, known),
	}, nil
}

// register offers the answers.
func (s *clusterState) register(r grpc.ServiceRegistrar) {
	agentrpc.RegisterClusterQueryServer(r, s.server)
}

// configure follows the configuration.
func (s *clusterState) configure(cfg *agentcfg.ClusterState) {
	s.cache.Configure(cache.Settings{SecretValues: cfg.GetSecretValues(), IdleTimeout: cfg.GetIdleTimeout().AsDuration()})
	s.keeper.Keep(preloadOf(s.log, cfg.GetPreload()))
}

// preloadOf is what is to be kept. kas checks the same, and tells the user.
func preloadOf(log *zap.Logger, preload []*agentcfg.KeptResource) []query.Kept {
	if len(preload) > maxPreload {
		log.Error("Configuration names too much in cluster_state.preload; ignoring the rest", zap.Int("limit", maxPreload))
		preload = preload[:maxPreload]
	}
	kept := make([]query.Kept, 0, len(preload))
	for _, p := range preload {
		form := objects.Whole
		if p.GetShape() == "table" {
			form = objects.Table
		}
		kept = append(kept, query.Kept{Resource: schema.GroupResource{Group: p.GetGroup(), Resource: p.GetResource()}, Form: form})
	}
	return kept
}

// run keeps what is cached up to date until ctx ends.
func (s *clusterState) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.cache.Run(ctx) })
	g.Go(func() error { return s.keeper.Run(ctx) })
	return g.Wait()
}
