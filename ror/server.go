package ror

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/ror/clusters"
	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/gitaly"
	"github.com/kas-agentk/kas/ror/githttp"
	"github.com/kas-agentk/kas/ror/hosting"
	"github.com/kas-agentk/kas/ror/internalapi"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/page"
	"github.com/kas-agentk/kas/ror/registry"
	"github.com/kas-agentk/kas/ror/rest"
)

const (
	// requestTimeout bounds a request that is not Git's, body and answer included.
	requestTimeout = time.Minute
	// drainTimeout is how long requests in flight get when the server stops.
	drainTimeout = 20 * time.Second
	// readinessTimeout is how long the database may take to say that it is there.
	readinessTimeout = 2 * time.Second
)

// Run serves until ctx ends, and returns when everything it started has ended.
func Run(ctx context.Context, cfg Config, log *zap.Logger) (err error) {
	if err := cfg.verify(); err != nil {
		return err
	}
	secrets, err := cfg.readSecrets()
	if err != nil {
		return err
	}
	metrics := admin.NewRegistry()
	traces, flush, err := cfg.Tracing.Start(ctx, "ror", metrics, log.Named("tracing"))
	if err != nil {
		return err
	}
	defer flush()
	measured, err := newMetrics(metrics)
	if err != nil {
		return err
	}
	kas, err := kasapi.NewClient(kasapi.Config{Address: cfg.KasAPIAddress, Secret: secrets.kas}, append(measured.kas, traces.DialOptions()...)...)
	if err != nil {
		return fmt.Errorf("--kas-api-address: %w", err)
	}
	defer func() { err = errors.Join(err, kas.Close()) }()
	notifier := kas.Notifier(log.Named("notifier"))
	reg, err := registry.Open(ctx, registry.Config{Path: cfg.Database, OnRevoked: notifier.AgentRevoked})
	if err != nil {
		return fmt.Errorf("--database: %w", err)
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	if cfg.Bootstrap.User != "" {
		if err := reg.Bootstrap(ctx, cfg.Bootstrap.User, secrets.password, secrets.token); err != nil {
			return err
		}
	}
	git, err := gitaly.NewClient(gitaly.Config{Address: cfg.GitalyAddress, Token: secrets.gitalyToken, Storage: cfg.GitalyStorage}, append(measured.gitaly, traces.DialOptions()...)...)
	if err != nil {
		return fmt.Errorf("--gitaly-address: %w", err)
	}
	defer func() { err = errors.Join(err, git.Close()) }()
	handler, err := newHandler(ctx, cfg, parts{
		secrets: secrets, log: log, registry: reg, gitaly: git, kas: kas, notifier: notifier, registered: metrics, metrics: measured, tracing: traces,
	})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.ListenAddress)
	if err != nil {
		return fmt.Errorf("--listen-address: %w", err)
	}
	observability, err := listenForOperators(ctx, cfg.ObservabilityListenAddress)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	log.Info("ror serves", zap.Stringer("address", l.Addr()), zap.String("url", cfg.ExternalURL), zap.String("observability", addressOf(observability)))
	g, ctx := errgroup.WithContext(ctx)
	if observability != nil {
		g.Go(func() error {
			return (&admin.Server{Gatherer: metrics, Checks: []admin.Check{{Name: "database", Ready: reg.Ready}}}).Run(ctx, observability)
		})
	}
	g.Go(func() error {
		notifier.Run(ctx)
		return nil
	})
	g.Go(func() error { return serve(ctx, l, handler, log) })
	return g.Wait()
}

// listenForOperators listens on HOST:PORT; nil: that is empty.
func listenForOperators(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil //nolint:nilnil // nobody is to be let in
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--observability-listen-address: %w", err)
	}
	return l, nil
}

func addressOf(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// serve serves on l until ctx ends, then lets requests in flight finish.
func serve(ctx context.Context, l net.Listener, handler http.Handler, log *zap.Logger) error {
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          zap.NewStdLog(log),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			log.Warn("cut off requests that did not end in time", zap.Error(err))
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}

// parts are what the rooms stand on.
type parts struct {
	secrets  secrets
	log      *zap.Logger
	registry *registry.Registry
	gitaly   *gitaly.Client
	kas      *kasapi.Client
	notifier *kasapi.Notifier
	// registered holds what is served of the metrics.
	registered *prometheus.Registry
	metrics    *metrics
	tracing    *tracing.Tracing
}

// newHandler wires the rooms. Streams end with ctx; other requests use their own contexts.
func newHandler(ctx context.Context, cfg Config, p parts) (http.Handler, error) {
	log, reg := p.log, p.registry
	projects := hosting.NewProjects(reg, p.gitaly)
	view := overview.New(reg, p.kas)
	commands := control.New(reg, p.kas, log.Named("audit"))
	inside := clusters.New(p.kas)
	isUnavailable := func(err error) bool { return errors.Is(err, gitaly.ErrUnavailable) }

	pages, err := page.NewServer(page.Config{
		ExternalURL: cfg.ExternalURL, KasAgentAddress: cfg.KasAgentAddress, KasProxyURL: cfg.KasProxyURL,
		IsUnavailable: isUnavailable, Log: log.Named("page"),
	}, reg, projects, view, commands, inside)
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	measured, soon := p.metrics.requests, p.metrics.speed

	api := http.NewServeMux()
	restConfig := rest.Config{
		ExternalURL: cfg.ExternalURL, KasAgentAddress: cfg.KasAgentAddress, KasProxyURL: cfg.KasProxyURL, KasProxyCA: p.secrets.proxyCA,
		IsUnavailable: isUnavailable, Log: log.Named("rest"),
	}
	rest.NewServer(restConfig, reg, projects, view, commands, inside).Register(api) //nolint:contextcheck // handlers use their requests' contexts
	internal := http.NewServeMux()
	internalapi.NewServer(internalapi.Config{
		KasSecret: p.secrets.kas, ShellSecret: p.secrets.shell, ExternalURL: cfg.ExternalURL, Log: log.Named("internalapi"),
		OnPush: func(ctx context.Context, push registry.Push) {
			soon.pushed(push)
			p.notifier.Pushed(ctx, push.Project.ID, push.Project.FullPath)
		},
		OnStatus: soon.told,
	}, reg, p.gitaly).Register(internal)

	mux := http.NewServeMux()
	mux.Handle("/api/", measured.of("rest", api))
	mux.Handle("/api/v4/internal/", measured.of("internalapi", internal))
	mux.Handle("/api/v4/job/", measured.of("internalapi", internal))
	mux.Handle("/", measured.of("page", withPattern(pages, page.Pattern)))
	mux.Handle("GET /-/metrics", promhttp.HandlerFor(p.registered, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /-/liveness", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /-/readiness", readiness(reg))

	traced := tracer(p.tracing)
	timed, streams := withDeadline(traced(mux)), endWith(ctx, mux)
	gitServer := githttp.NewServer(githttp.Config{Log: log.Named("githttp")}, reg, p.gitaly)
	gitHandler := traced(measured.of("githttp", withPattern(gitServer, githttp.Pattern)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gitServer.Handles(r) {
			gitHandler.ServeHTTP(w, r)
			return
		}
		if rest.IsStream(r) || page.IsStream(r) {
			streams.ServeHTTP(w, r)
			return
		}
		timed.ServeHTTP(w, r)
	}), nil
}

// withDeadline bounds how long a client may take to send a request and to take the
// answer. The server resets both deadlines before the next request.
func withDeadline(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		deadline := time.Now().Add(requestTimeout)
		if err := errors.Join(control.SetReadDeadline(deadline), control.SetWriteDeadline(deadline)); err != nil {
			http.Error(w, "no deadlines on this connection", http.StatusInternalServerError)
			return
		}
		ctx, cancel := context.WithDeadline(r.Context(), deadline)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// endWith ends requests that would go on and on when the server stops: they would hold
// it up. How long a client may take is theirs to bound.
func endWith(server context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(server, cancel)()
		h.ServeHTTP(w, r.WithContext(ctx)) //nolint:contextcheck // the request's context, which ends with the server's as well
	})
}

func readiness(reg *registry.Registry) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readinessTimeout)
		defer cancel()
		if err := reg.Ready(ctx); err != nil {
			http.Error(w, "database: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
