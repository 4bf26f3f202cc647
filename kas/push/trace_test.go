package push_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/kas/push"
)

// startTraced returns the spans of a name besides.
func startTraced(t *testing.T) (h *harness, traced *tracing.Tracing, named func(string) []sdktrace.ReadOnlySpan) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "kas", Exporter: exporter})
	require.NoError(t, err)
	return start(t, func(c *push.Config) { c.Tracing = traced }), traced, func(name string) (found []sdktrace.ReadOnlySpan) {
		for _, one := range exporter.GetSpans().Snapshots() {
			if one.Name() == name {
				found = append(found, one)
			}
		}
		return found
	}
}

// poll is the trace context of a poll.
func poll(t *testing.T, traced *tracing.Tracing) (trace.SpanContext, string) {
	t.Helper()
	ctx, span := traced.Start(t.Context(), "poll")
	defer span.End()
	return span.SpanContext(), tracing.Traceparent(ctx)
}

func TestTrace_EachAgentsSetIsBelowOneParse(t *testing.T) {
	h, traced, named := startTraced(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	agents := []*agent{h.connect(1), h.connect(2)}
	for _, a := range agents {
		a.receive()
	}
	sent := func(n int) { // a span ends when all is sent
		t.Helper()
		testkit.Eventually(t, func() error {
			if got := len(named("push set")); got != n {
				return fmt.Errorf("%d sets are spans", got)
			}
			return nil
		})
	}
	sent(2)
	above, traceparent := poll(t, traced)
	id := h.repo.add("two", map[string]string{"a.yaml": configMap("a", "2"), "b.yaml": configMap("b", "2")})
	h.repo.set(gitrepo.Revision{Ref: gitrepo.Ref{Branch: "main"}, CommitID: id, DetectedAt: detected, Traceparent: traceparent})
	told := map[string]bool{}
	for _, a := range agents {
		told[a.receive().header.GetTraceparent()] = true
	}
	sent(4)
	parse := named("parse")[1]
	require.Equal(t, above.SpanID(), parse.Parent().SpanID())
	attributes := map[string]string{}
	for _, a := range parse.Attributes() {
		attributes[string(a.Key)] = a.Value.String()
	}
	require.Equal(t, map[string]string{"project": "group/manifests", "commit": id, "files": "2", "objects": "2", "mistakes": "0"}, attributes)
	for _, set := range named("push set")[2:] {
		require.Equal(t, parse.SpanContext().SpanID(), set.Parent().SpanID())
		delete(told, tracing.Traceparent(trace.ContextWithSpanContext(t.Context(), set.SpanContext())))
	}
	require.Empty(t, told, "agents are told of other spans")
}

func TestTrace_WhatCannotBeReadIsAnErrorOfItsSpan(t *testing.T) {
	h, _, named := startTraced(t)
	h.repo.breakReading(&gitrepo.UnavailableError{Doing: "list", Err: errors.New("going down")})
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	testkit.Eventually(t, func() error {
		if len(named("parse")) == 0 {
			return errors.New("nothing was read")
		}
		return nil
	})
	require.Equal(t, codes.Error, named("parse")[0].Status().Code)
	h.repo.breakReading(nil)
	testkit.Eventually(t, func() error {
		h.clock.Step(time.Minute) // longer than it waits before it reads again
		if len(named("parse")) < 2 {
			return errors.New("not read again")
		}
		return nil
	})
	require.NotEmpty(t, a.receive().header.GetTraceparent())
}

func TestTrace_ReportsAreOfTheSetsTraceAndNotTooMany(t *testing.T) {
	h, traced, named := startTraced(t)
	commit := h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	own := a.receive().header.GetTraceparent()
	_, foreign := poll(t, traced)
	const many = 40
	var said []string
	for range many {
		said = append(said, own)
	}
	said = append(said, "", foreign, "ff"+own[2:], strings.ToUpper(own), own[:40])
	for _, traceparent := range said {
		a.report(&agentrpc.Report{CommitId: commit, State: syncstatus.State_STATE_SYNCING, Traceparent: traceparent})
	}
	testkit.Eventually(t, func() error {
		if n := len(h.board.reported(1)); n != len(said) {
			return fmt.Errorf("%d reports", n)
		}
		return nil
	})
	const limit = 32
	require.Len(t, named("report"), limit)
	for i, r := range h.board.reported(1) {
		if (r.GetTraceparent() != "") != (i < limit) {
			t.Errorf("report %d, which said %q, names %q", i, said[i], r.GetTraceparent())
		}
	}
	first := trace.SpanContextFromContext(tracing.WithTraceparent(t.Context(), h.board.reported(1)[0].GetTraceparent()))
	require.Equal(t, named("report")[0].SpanContext().SpanID(), first.SpanID(), "what is done with a report is below it")
}

func TestTrace_OffNothingIsNamed(t *testing.T) {
	h := start(t)
	commit := h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	require.Empty(t, a.receive().header.GetTraceparent())
	a.report(&agentrpc.Report{CommitId: commit, Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
	testkit.Eventually(t, func() error {
		if len(h.board.reported(1)) == 0 {
			return errors.New("no report")
		}
		return nil
	})
	require.Empty(t, h.board.reported(1)[0].GetTraceparent())
}
