package agentk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/agentk/diagnose"
	"github.com/kas-agentk/kas/agentk/kubeapi"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/version"
)

// versionTimeout bounds the question for the API server's version, for which the
// connection to kas waits.
const versionTimeout = 2 * time.Second

// kubernetes is all that the agent has of its cluster.
type kubernetes struct {
	engine  Engine
	elector Elector
	version func(context.Context) string
	// controls are kept beside the inventories.
	controls ControlStore
	// state answers questions about the cluster.
	state *clusterState
	// api makes requests of people and CI jobs.
	api *kubeapi.Server
	// examiner looks at it all when somebody asks.
	examiner *diagnose.Examiner
	// Run runs what the engine and the answers stand on until its context ends.
	Run func(context.Context) error
}

// newKubernetes wires the rooms that talk to the API server. It asks the API server
// nothing, which may be away.
func newKubernetes(flags *genericclioptions.ConfigFlags, namespace, identity string, cfg *Config) (*kubernetes, error) {
	restConfig, err := restConfigOf(flags)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	restConfig.UserAgent = "agentk/" + version.Version
	own, err := measured(restConfig, cfg.Registry, clock.RealClock{})
	if err != nil {
		return nil, err
	}
	elector, err := NewLeaseElector(LeaseConfig{Log: cfg.Log, RESTConfig: own, Namespace: namespace, Identity: identity})
	if err != nil {
		return nil, err
	}
	ask, err := versionOf(own)
	if err != nil {
		return nil, err
	}
	controls, err := newConfigMapControls(own, namespace)
	if err != nil {
		return nil, err
	}
	known, err := cache.New(cache.Config{RESTConfig: own, FieldManager: cluster.FieldManager, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{RESTConfig: own, Namespace: namespace, Cache: known})
	if err != nil {
		return nil, err
	}
	state, err := newClusterState(cfg, known, c)
	if err != nil {
		return nil, err
	}
	api, err := kubeapi.NewServer(kubeapi.Config{RESTConfig: restConfig, Registerer: cfg.Registry, Tracing: cfg.Tracing})
	if err != nil {
		return nil, err
	}
	examiner, err := diagnose.New(diagnose.Config{RESTConfig: restConfig, Namespace: namespace, Identity: identity}, c)
	if err != nil {
		return nil, err
	}
	return &kubernetes{
		engine:  clusterEngine{cluster: c, limit: gitops.NewLimit(gitops.DefaultParallel)},
		elector: elector, version: ask, controls: controls, state: state, api: api, examiner: examiner,
		Run: func(ctx context.Context) error {
			defer api.Close()
			return state.run(ctx)
		},
	}, nil
}

// register offers the Kubernetes API.
func (k *kubernetes) register(r grpc.ServiceRegistrar) {
	agentrpc.RegisterKubernetesApiServer(r, k.api)
}

var errNoCluster = errors.New("no cluster: give --kubeconfig or KUBECONFIG, or run in a pod")

// restConfigOf is how to reach the API server, by the usual rules. client-go would
// guess localhost:8080 where nothing is said; that is nobody's cluster any more.
func restConfigOf(flags *genericclioptions.ConfigFlags) (*rest.Config, error) {
	raw, err := flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, err //nolint:wrapcheck // newKubernetes does
	}
	inCluster := os.Getenv("KUBERNETES_SERVICE_HOST") != ""
	if len(raw.Clusters) == 0 && *flags.APIServer == "" && !inCluster {
		return nil, errNoCluster
	}
	return flags.ToRESTConfig() //nolint:wrapcheck // newKubernetes does
}

// versionOf returns a function that asks for the API server's version until it has
// been told, and remembers it.
func versionOf(restConfig *rest.Config) (func(context.Context) string, error) {
	restConfig = rest.CopyConfig(restConfig)
	restConfig.Timeout = versionTimeout
	client, err := discovery.NewDiscoveryClientForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	var known atomic.Pointer[string]
	return func(context.Context) string {
		if v := known.Load(); v != nil {
			return *v
		}
		info, err := client.ServerVersion()
		if err != nil {
			return "" // kas asks again at the next connect
		}
		known.Store(&info.GitVersion)
		return info.GitVersion
	}, nil
}

// clusterEngine is the gitops engine over one cluster.
type clusterEngine struct {
	cluster *cluster.Cluster
	// limit of requests, which all projects share.
	limit *gitops.Limit
}

var _ Engine = clusterEngine{}

// Forget implements Engine.
func (e clusterEngine) Forget() { e.cluster.Forget() }

// Run implements Engine.
func (e clusterEngine) Run(ctx context.Context, p gitops.Project, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
	p.Limit = e.limit
	return gitops.Run(ctx, e.cluster, p, d, o)
}

// Watch implements Engine.
func (e clusterEngine) Watch(ctx context.Context, p gitops.Project, r gitops.Result, o gitops.Observer, cfg gitops.WatchConfig) error {
	p.Limit = e.limit
	return gitops.Watch(ctx, e.cluster, p, r, o, cfg)
}

// Diff implements Engine.
func (e clusterEngine) Diff(ctx context.Context, p gitops.Project, d gitops.Desired) ([]gitops.Difference, error) {
	return gitops.Diff(ctx, e.cluster, p, d)
}
