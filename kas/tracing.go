package kas

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/internal/version"
	"github.com/kas-agentk/kas/kas/private"
	"github.com/kas-agentk/kas/kas/proxy"
	kasstatus "github.com/kas-agentk/kas/kas/status"
)

// lastSpans is how long what is still to be sent to the collector may take when kas ends.
const lastSpans = 3 * time.Second

// newTracing is what observability.tracing says.
func newTracing(ctx context.Context, options Options, registerer prometheus.Registerer) (*tracing.Tracing, error) {
	cfg := options.Configuration.GetObservability().GetTracing()
	token, err := fileOf("observability.tracing.otlp_token_secret_file", cfg.GetOtlpTokenSecretFile())
	if err != nil {
		return nil, err
	}
	const caFile = "observability.tracing.otlp_ca_certificate_file"
	if _, err := rootCAs(caFile, cfg.GetOtlpCaCertificateFile()); err != nil { // it knows best what is wrong
		return nil, err
	}
	roots, err := fileOf(caFile, cfg.GetOtlpCaCertificateFile())
	if err != nil {
		return nil, err
	}
	made, err := tracing.New(ctx, tracing.Config{
		Service: "kas", Version: version.Version,
		Endpoint: cfg.GetOtlpEndpoint(), Token: strings.TrimSpace(string(token)), CACertPEM: roots,
		Registerer: registerer, Log: options.Log.Named("tracing"), Exporter: options.Exporter,
	})
	if err != nil {
		return nil, wrong("observability.tracing.otlp_endpoint", "%w", err)
	}
	return made, nil
}

// fileOf reads the file that a setting names, if it names one.
func fileOf(key, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, wrong(key, "%w", err)
	}
	return data, nil
}

// validateTracing checks what the schema cannot. cfg may be nil.
func validateTracing(cfg *kascfg.Tracing) error {
	if cfg != nil && cfg.GetOtlpEndpoint() == "" {
		return wrong("observability.tracing", "otlp_endpoint is missing: the URL of a collector, for example http://127.0.0.1:4318/v1/traces")
	}
	return nil
}

// endTracing sends what is still to be sent.
func (h *house) endTracing(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastSpans)
	defer cancel()
	_ = h.tracing.Shutdown(ctx) // it returns nil
}

// tracedAgents makes a span of each RPC with an agent that is within a trace, and tells the
// agent of it.
func tracedAgents(agents proxy.Agents, traced *tracing.Tracing) proxy.Agents {
	if !traced.Enabled() {
		return agents
	}
	return tracedTunnel{of: agents.Conn, tracing: traced}
}

// tracedHere does the same for RPCs that another kas asks for.
func tracedHere(agents private.Agents, traced *tracing.Tracing) private.Agents {
	if !traced.Enabled() {
		return agents
	}
	return tracedTunnel{of: agents.Here, tracing: traced}
}

type tracedTunnel struct {
	of      func(agentID int64) grpc.ClientConnInterface
	tracing *tracing.Tracing
}

// Conn implements proxy.Agents and state.Tunnel.
func (t tracedTunnel) Conn(agentID int64) grpc.ClientConnInterface {
	return &tracedConn{ClientConnInterface: t.of(agentID), tracing: t.tracing, agentID: agentID}
}

// Here implements private.Agents.
func (t tracedTunnel) Here(agentID int64) grpc.ClientConnInterface { return t.Conn(agentID) }

// tracedConn is an agent, for RPCs of which each is a span. Those that live long are none,
// but the agent is told whose they are.
type tracedConn struct {
	grpc.ClientConnInterface
	tracing *tracing.Tracing
	agentID int64
}

// Invoke implements grpc.ClientConnInterface.
func (c *tracedConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, end := c.begin(ctx, method)
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	end(err)
	return err //nolint:wrapcheck // it is the RPC's status
}

// NewStream implements grpc.ClientConnInterface.
func (c *tracedConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, end := c.begin(ctx, method)
	stream, err := c.ClientConnInterface.NewStream(ctx, desc, method, append(slices.Clip(opts), grpc.OnFinish(end))...)
	if err != nil {
		end(err)
	}
	return stream, err //nolint:wrapcheck // it is the RPC's status
}

// begin starts the span of an RPC, which end ends.
func (c *tracedConn) begin(ctx context.Context, method string) (started context.Context, end func(error)) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, func(error) {}
	}
	if tracing.LivesLong(method) {
		return c.tracing.Outgoing(ctx), func(error) {}
	}
	ctx, span := c.tracing.Start(ctx, "tunnel "+strings.TrimPrefix(method, "/"), tracing.AgentID(c.agentID))
	return c.tracing.Outgoing(ctx), func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, status.Convert(err).Message())
			span.SetAttributes(attribute.String("rpc.response.status_code", status.Code(err).String()))
		}
		span.End()
	}
}

// tracedPoster makes a span of each status within a trace that RoR is told.
func tracedPoster(to kasstatus.Poster, traced *tracing.Tracing) kasstatus.Poster {
	if !traced.Enabled() {
		return to
	}
	return poster{to: to, tracing: traced}
}

type poster struct {
	to      kasstatus.Poster
	tracing *tracing.Tracing
}

// PostSyncStatus implements status.Poster.
func (p poster) PostSyncStatus(ctx context.Context, update *syncstatus.Update) error {
	ctx, span := p.tracing.StartWithin(ctx, "tell RoR", tracing.AgentID(update.GetAgentId()),
		attribute.String("state", update.GetStatus().GetState().String()))
	defer span.End()
	err := p.to.PostSyncStatus(ctx, update)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}
