package gitaly_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/kas/gitaly"
)

func everyRepository(gitlabapi.GitalyRepository) bool { return true }

// spanOf is the span that a traceparent names.
func spanOf(t *testing.T, traceparent string) trace.SpanContext {
	t.Helper()
	return trace.SpanContextFromContext(tracing.WithTraceparent(t.Context(), traceparent))
}

func startTracedRefs(t *testing.T) (f *refsFixture, polls func() []sdktrace.ReadOnlySpan, event func() string) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "kas", Exporter: exporter})
	require.NoError(t, err)
	other, err := tracing.New(t.Context(), tracing.Config{Service: "ror", Exporter: tracetest.NewInMemoryExporter()})
	require.NoError(t, err)
	f = &refsFixture{t: t, fake: newFake(), clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), metrics: prometheus.NewRegistry()}
	f.refs = gitaly.NewRefs(gitaly.RefsConfig{Clock: f.clock, PollTimeout: testkit.Patience, Tracing: traced}, f.fake.serve(t, gitaly.PoolConfig{Options: traced.DialOptions()}), f.metrics)
	return f, func() []sdktrace.ReadOnlySpan { return exporter.GetSpans().Snapshots() }, func() string {
		ctx, span := other.Start(context.WithoutCancel(t.Context()), "push")
		span.End()
		return tracing.Traceparent(ctx)
	}
}

func TestPoll_WhatItFindsByItselfBeginsATrace(t *testing.T) {
	f, polls, _ := startTracedRefs(t)
	f.fake.commit("refs/heads/main", "one", nil)
	first := f.follow(gitrepo.Ref{}, period).next()
	f.polled(infoRefs, 1)
	f.step(period) // finds nothing new
	f.polled(infoRefs, 2)

	got := polls()
	require.Len(t, got, 1)
	assert.Equal(t, "poll", got[0].Name())
	assert.False(t, got[0].Parent().IsValid())
	assert.Equal(t, got[0].SpanContext().SpanID(), spanOf(t, first.Traceparent).SpanID())
	later := f.follow(gitrepo.Ref{}, period).next()
	assert.Equal(t, first.CommitID, later.CommitID)
	assert.Empty(t, later.Traceparent, "what has been known for longer is not news")
}

func TestPoke_WhatAPollFindsIsOfTheTraceThatCausedIt(t *testing.T) {
	f, polls, event := startTracedRefs(t)
	f.fake.commit("refs/heads/main", "one", nil)
	fo := f.follow(gitrepo.Ref{}, time.Hour)
	fo.next()
	f.polled(infoRefs, 1)

	f.fake.fail(status.Error(codes.Unavailable, "going down"))
	first, second := event(), event()
	f.refs.Poke(everyRepository, first)
	f.polled(infoRefs, 2)
	f.refs.Poke(everyRepository, second)
	f.polled(infoRefs, 3)
	require.Len(t, polls(), 1, "polls that fail find nothing")

	want := f.fake.commit("refs/heads/main", "two", nil)
	f.fake.fail(nil)
	f.step(time.Hour)
	revision := fo.next()
	for revision.CommitID != want { // that Gitaly was away was told before
		revision = fo.next()
	}
	f.polled(infoRefs, 4)
	got := polls()
	require.Len(t, got, 2)
	poll := got[1]
	assert.Equal(t, spanOf(t, first).SpanID(), poll.Parent().SpanID())
	assert.Equal(t, spanOf(t, first).TraceID(), poll.SpanContext().TraceID())
	require.Len(t, poll.Links(), 1)
	assert.Equal(t, spanOf(t, second).SpanID(), poll.Links()[0].SpanContext.SpanID())
	assert.Equal(t, poll.SpanContext().SpanID(), spanOf(t, revision.Traceparent).SpanID())

	f.refs.Poke(everyRepository, event())
	f.polled(infoRefs, 5)
	f.fake.commit("refs/heads/main", "three", nil)
	f.step(time.Hour)
	fo.next()
	f.polled(infoRefs, 6)
	got = polls()
	require.Len(t, got, 3)
	assert.False(t, got[2].Parent().IsValid(), "a cause is one of the poll that it led to alone")
}
