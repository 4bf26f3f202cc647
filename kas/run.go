package kas

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/admin"
)

// drainTime bounds how long open streams may take to end once kas stops.
const drainTime = 8 * time.Second

// Options of Run.
type Options struct {
	// Configuration as LoadConfiguration returns it: complete and checked.
	Configuration *kascfg.ConfigurationFile
	Log           *zap.Logger
	// Renderer starts a process that renders. Nil: rendering is done in this process.
	Renderer func(context.Context) *exec.Cmd
	// Exporter, unless nil, gets what is traced, in place of the configured collector.
	Exporter sdktrace.SpanExporter
	// Listening, unless nil, is told where kas listens, once it does.
	Listening func(Addresses)
}

// Run runs kas until ctx ends, drains, and returns nil; or an error that says why kas
// could not start or go on.
func Run(ctx context.Context, options Options) error {
	listeners, err := listenAll(ctx, options.Configuration)
	if err != nil {
		return err
	}
	house, err := build(ctx, options, listeners.private)
	if err != nil {
		listeners.close()
		return err
	}
	defer house.close(context.WithoutCancel(ctx), options.Log)
	where := listeners.addresses()
	if house.many != nil {
		options.Log.Info("This kas is one of several", zap.String("private_api", where.Private), zap.String("own_url", house.many.presence.self))
	}
	options.Log.Info("Listening",
		zap.String("agent", where.Agent), zap.Bool("agent_tls", options.Configuration.GetAgent().GetListen().GetCertificateFile() != ""),
		zap.Bool("agent_websocket", options.Configuration.GetAgent().GetListen().GetWebsocket()),
		zap.String("api", where.API), zap.Bool("api_tls", options.Configuration.GetApi().GetListen().GetCertificateFile() != ""),
		zap.String("observability", where.Observability),
		zap.String("kubernetes_api", where.KubernetesAPI), zap.Bool("kubernetes_api_tls", options.Configuration.GetAgent().GetKubernetesApi().GetListen().GetCertificateFile() != ""))
	if options.Listening != nil {
		options.Listening(where)
	}
	return house.run(ctx, listeners, options.Log)
}

// run serves until ctx ends or a part fails, and drains.
func (h *house) run(ctx context.Context, l *listeners, log *zap.Logger) error {
	g, ctx := errgroup.WithContext(ctx)
	// Metrics, probes and object sets outlive ctx: they are part of the drain.
	late, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	streams, endStreams := context.WithCancel(late)
	defer endStreams()
	told := make(chan struct{}) // closed when RoR has been told the last statuses
	servers := []*grpc.Server{h.agentServer, h.apiServer}
	leave := func() {}
	if h.many != nil {
		servers = append(servers, h.privateServer)
		g.Go(func() error { return serve("private", h.privateServer.Serve(l.private)) })
		leave = h.many.run(late, g)
	}

	observability := l.observability
	if h.observabilityTLS != nil {
		observability = tls.NewListener(observability, h.observabilityTLS)
	}
	var agent net.Listener = noted{h.bound(l.agent)}
	if h.webSocket != nil {
		upgraded := h.webSocket(agent)
		g.Go(func() error { return serve("agent", upgraded.Run(late)) })
		agent = upgraded
	}
	g.Go(func() error { return h.admin().Run(late, observability) })
	g.Go(func() error { return serve("agent", h.agentServer.Serve(agent)) })
	g.Go(func() error { return serve("api", h.apiServer.Serve(l.api)) })
	if h.proxy != nil {
		g.Go(func() error { return h.proxy.Run(ctx, l.kubernetesAPI) }) // it drains while streams go on
	}
	g.Go(func() error { return h.push.Run(streams) })
	g.Go(func() error { return h.tunnel.Run(streams) })
	g.Go(func() error { return h.state.Run(streams) })
	g.Go(func() error {
		defer close(told)
		return ignoreEnd(ctx, h.status.Run(ctx))
	})
	g.Go(func() error {
		<-ctx.Done()
		log.Info("Draining")
		h.health.Shutdown()
		h.draining.Store(true)
		// Only then do agents leave: that they do is no news for RoR.
		<-told
		leave()
		endStreams()
		h.drain.begin()
		stopWithin(drainTime, servers...)
		end()
		return nil
	})
	return g.Wait()
}

// stopWithin lets RPCs end and then closes the servers' connections; when the time is
// over it closes them anyway.
func stopWithin(limit time.Duration, servers ...*grpc.Server) {
	over := time.AfterFunc(limit, func() {
		for _, s := range servers {
			s.Stop()
		}
	})
	defer over.Stop()
	var g errgroup.Group
	for _, s := range servers {
		g.Go(func() error { s.GracefulStop(); return nil })
	}
	_ = g.Wait() // nothing fails
}

func serve(listener string, err error) error {
	if err == nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("serve on the %s listener: %w", listener, err)
}

// ignoreEnd takes the error away that only says that ctx has ended.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// admin is the observability endpoint.
func (h *house) admin() *admin.Server {
	return &admin.Server{
		Gatherer: h.metrics,
		Checks: []admin.Check{{
			Name: "draining",
			Ready: func(context.Context) error {
				if h.draining.Load() {
					return errors.New("kas is shutting down")
				}
				return nil
			},
		}},
	}
}
