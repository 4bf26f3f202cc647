package kasapi_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
)

// notified is kas's end: it keeps the traces that pushes are part of, by project.
type notified struct {
	railsrpc.UnimplementedNotificationsServer
	mu     sync.Mutex
	traces map[int64][]string
}

func (n *notified) GitPushEvent(ctx context.Context, r *railsrpc.GitPushEventRequest) (*railsrpc.GitPushEventResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.traces[r.GetProject().GetId()] = metadata.ValueFromIncomingContext(ctx, "traceparent")
	return &railsrpc.GitPushEventResponse{}, nil
}

func (n *notified) of(project int64) (traces []string, heard bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	traces, heard = n.traces[project]
	return traces, heard
}

func TestNotifier_APushGoesOnWithItsTrace(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "ror", Exporter: exporter})
	require.NoError(t, err)
	kas := &notified{traces: make(map[int64][]string)}
	c := serve(t, secret, func(srv *grpc.Server) { railsrpc.RegisterNotificationsServer(srv, kas) }, traced.DialOptions()...)
	n := c.Notifier(testkit.Logger(t))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.Run(ctx)
	}()
	tell := func(ctx context.Context, project int64) (traces []string) {
		testkit.Eventually(t, func() error { // a kas that hears of a push too late is not told again
			n.Pushed(ctx, project, "group/app")
			var heard bool
			if traces, heard = kas.of(project); !heard {
				return errors.New("kas has heard of no push")
			}
			return nil
		})
		return traces
	}

	request, push := traced.Start(t.Context(), "push")
	got := tell(request, 7)
	require.Len(t, got, 1)
	require.Contains(t, got[0], push.SpanContext().TraceID().String())
	require.Empty(t, tell(t.Context(), 8), "it is part of none")
	push.End()
	cancel()
	<-ended
}
