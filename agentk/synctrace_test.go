package agentk

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/inventory"
)

const (
	kasTrace = "0af7651916cd43dd8448eb211c80319c"
	kasSpan  = "b7ad6b7169203331"
)

// traced returns what an agent traces with, and what it has recorded.
func traced(t *testing.T) (*tracing.Tracing, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	tr, err := tracing.New(t.Context(), tracing.Config{Service: "agentk", Exporter: exporter})
	require.NoError(t, err)
	return tr, exporter
}

// aTracedSet is a set that kas traces.
func aTracedSet(commit string, names ...string) []*agentrpc.ConnectResponse {
	set := aSet(commit, 10, names...)
	set[0].GetHeader().ProjectPath = "group/app"
	set[0].GetHeader().Traceparent = "00-" + kasTrace + "-" + kasSpan + "-01"
	return set
}

// awaitSpans waits until these have ended, and no other.
func awaitSpans(t *testing.T, exporter *tracetest.InMemoryExporter, want ...string) map[string]sdktrace.ReadOnlySpan {
	t.Helper()
	spans := map[string]sdktrace.ReadOnlySpan{}
	testkit.Eventually(t, func() error {
		var names []string
		for _, s := range exporter.GetSpans().Snapshots() {
			names = append(names, s.Name())
			spans[s.Name()] = s
		}
		slices.Sort(names)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			return fmt.Errorf("spans are %q, want %q", names, want)
		}
		return nil
	})
	return spans
}

func TestAgent_TracesTheFirstRunOfASetThatKasTraces(t *testing.T) {
	tr, exporter := traced(t)
	r := startAgent(t, func(cfg *Config) { cfg.Tracing = tr })
	r.engine.run = func(_ context.Context, n int, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
		if p, ok := o.(gitops.PhaseObserver); ok {
			p.Phase(gitops.Phase{Name: gitops.PhasePlan, Objects: 2})
			p.Phase(gitops.Phase{Name: gitops.PhaseApply, Kind: "ConfigMap", Objects: 2})
		} else if n == 1 {
			return gitops.Result{}, fmt.Errorf("run %d is not traced", n)
		}
		return created(d, o), nil
	}
	r.kas.configure(5, project("a"))
	r.kas.push("a", aTracedSet("c1", "x", "y")...)
	r.awaitSynced(t, "a", "c1")
	all := []string{"sync", "receive", "plan", "apply ConfigMap", "wait for health"}
	spans := awaitSpans(t, exporter, all...)
	sync := spans["sync"]
	for name, span := range spans {
		require.Equal(t, kasTrace, span.SpanContext().TraceID().String())
		if name != "sync" {
			require.Equal(t, sync.SpanContext().SpanID(), span.Parent().SpanID(), name)
		}
	}
	require.Equal(t, kasSpan, sync.Parent().SpanID().String())
	require.Subset(t, sync.Attributes(), []attribute.KeyValue{
		tracing.AgentID(5), tracing.Project("group/app"), tracing.Commit("c1"), tracing.Objects(2), tracing.Outcome("ok"), tracing.Failed(0),
	})
	require.Contains(t, spans["wait for health"].Attributes(), tracing.Outcome("ready"))
	require.False(t, spans["receive"].EndTime().Before(sync.StartTime()))
	require.Contains(t, r.kas.traceparents(), "00-"+kasTrace+"-"+sync.SpanContext().SpanID().String()+"-01")

	// Somebody else has changed something: the set is run again.
	r.engine.readiness <- gitops.Readiness{Drifted: []inventory.ID{{Name: "x"}}}
	r.awaitCommits(t, "c1", "c1")
	// A set that kas does not trace.
	r.kas.push("a", aSet("c2", 10, "x")...)
	r.awaitSynced(t, "a", "c2")
	r.stop()
	awaitSpans(t, exporter, all...)
}

func TestAgent_TraceEndsWithItsSet(t *testing.T) {
	tr, exporter := traced(t)
	r := startAgent(t, func(cfg *Config) { cfg.Tracing = tr })
	r.engine.run = func(ctx context.Context, n int, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
		if n == 1 {
			<-ctx.Done()
			return gitops.Result{}, ctx.Err()
		}
		return created(d, o), nil
	}
	r.kas.configure(5, project("a"))
	r.kas.push("a", aTracedSet("c1", "x")...)
	r.awaitCommits(t, "c1")
	r.kas.push("a", aSet("c2", 10, "x")...)
	r.awaitSynced(t, "a", "c2")
	spans := awaitSpans(t, exporter, "sync", "receive")
	require.Contains(t, spans["sync"].Attributes(), tracing.Outcome("preempted"))
}

func TestSyncTrace_HasNoMorePhasesThanItMay(t *testing.T) {
	tr, exporter := traced(t)
	ctx, span := tr.Start(t.Context(), "sync")
	trace := &syncTrace{sync: span, start: startBelow(ctx, tr)}
	for range maxPhases + 10 {
		tracedRun{trace: trace}.Phase(gitops.Phase{Name: gitops.PhaseApply})
	}
	trace.endPhase()
	spans := exporter.GetSpans()
	require.Len(t, spans, maxPhases)
	require.Equal(t, "further phases", spans[maxPhases-1].Name)
}
