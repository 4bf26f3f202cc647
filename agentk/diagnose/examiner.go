package diagnose

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	authenticationv1 "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationv1 "k8s.io/client-go/kubernetes/typed/authorization/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
)

const (
	// defaultTimeout of an examination; requestTimeout of each of its requests.
	defaultTimeout = 15 * time.Second
	requestTimeout = 5 * time.Second
)

// Kinds knows how kinds are served.
type Kinds interface {
	// KindMapping returns how the API server serves a kind. The error wraps
	// gitops.ErrNotServed, or says why that is not known.
	KindMapping(ctx context.Context, gk schema.GroupKind) (*meta.RESTMapping, error)
}

// Config of an Examiner.
type Config struct {
	// RESTConfig of the API server. Its rate limits are ignored.
	RESTConfig *rest.Config
	// Namespace of agentk's own, and Identity of this replica as its Lease has it.
	Namespace, Identity string
	// Timeout of an examination; zero: 15 s.
	Timeout time.Duration
	// Clock; nil: the real one.
	Clock clock.PassiveClock
}

// Examiner looks at the cluster. Its methods may be called by several goroutines.
type Examiner struct {
	cfg       Config
	kinds     Kinds
	rest      *rest.Config
	http      *http.Client
	discovery *discovery.DiscoveryClient
	reviews   authorizationv1.SelfSubjectAccessReviewInterface
	self      authenticationv1.SelfSubjectReviewInterface
	leases    coordinationv1.LeasesGetter
	// turn is taken by the examination that goes on.
	turn chan struct{}
	// configured is the newest configuration; nil: none has come.
	configured atomic.Pointer[agentcfg.ConfigurationFile]
}

// New returns an Examiner. It asks the API server nothing.
func New(cfg Config, kinds Kinds) (*Examiner, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	rc := rest.CopyConfig(cfg.RESTConfig)
	rc.QPS = -1
	rc.Timeout = requestTimeout
	client, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("make an HTTP client for the API server: %w", err)
	}
	e := &Examiner{cfg: cfg, kinds: kinds, rest: rc, http: client, turn: make(chan struct{}, 1)}
	var errs [4]error
	e.discovery, errs[0] = discovery.NewDiscoveryClientForConfigAndClient(rc, client)
	authorization, err := authorizationv1.NewForConfigAndClient(rc, client)
	errs[1] = err
	authentication, err := authenticationv1.NewForConfigAndClient(rc, client)
	errs[2] = err
	leases, err := coordinationv1.NewForConfigAndClient(rc, client)
	errs[3] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("make clients of the API server: %w", err)
	}
	e.reviews, e.self, e.leases = authorization.SelfSubjectAccessReviews(), authentication.SelfSubjectReviews(), leases
	return e, nil
}

// Configure takes the agent's configuration, which nobody changes any more.
func (e *Examiner) Configure(file *agentcfg.ConfigurationFile) { e.configured.Store(file) }

// Examine fills in what an answer says of the cluster. Where another examination is going
// on it waits for its turn.
func (e *Examiner) Examine(ctx context.Context, agentID int64, kinds []*agentrpc.UsedKind, into *agentrpc.DiagnoseResponse) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	into.Leadership, into.ApiServer, into.Permissions = &agentrpc.Leadership{}, &agentrpc.ApiServer{}, &agentrpc.Permissions{}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		into.Leadership.Error, into.ApiServer.Error, into.Permissions.Error = errBusy.Error(), errBusy.Error(), errBusy.Error()
		return
	}
	if e.greet(ctx, into.GetApiServer()); into.GetApiServer().GetError() != "" {
		into.Leadership.Error, into.Permissions.Error = errAway.Error(), errAway.Error()
		return
	}
	var g errgroup.Group
	g.Go(func() error { e.discover(ctx, into.GetApiServer()); return nil })
	g.Go(func() error { e.lead(ctx, agentID, into.GetLeadership()); return nil })
	g.Go(func() error { e.permit(ctx, kinds, into.GetPermissions()); return nil })
	_ = g.Wait() // nothing fails
}

var (
	errBusy = errors.New("agentk is still busy with another examination: try again")
	errAway = errors.New("the API server does not answer")
)
