package kas

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/internal/testkit"
)

// contextOnly is a stream of which only the context matters.
type contextOnly struct {
	grpc.ServerStream
	ctx context.Context
}

func (s contextOnly) Context() context.Context { return s.ctx }

func TestAgentStreams_KnowThatKasEndsThem(t *testing.T) {
	observer, err := newObserver(testkit.Logger(t), prometheus.NewRegistry())
	require.NoError(t, err)
	streams := &agentStreams{observer: observer, limit: newTokenLimit(bucket(0, 1), nil), drain: newDrain()}
	var cause error
	err = streams.interceptor()(nil, contextOnly{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: "/s/m", IsClientStream: true},
		func(_ any, stream grpc.ServerStream) error {
			streams.drain.begin()
			<-stream.Context().Done()
			cause = context.Cause(stream.Context())
			return stream.Context().Err()
		})
	require.ErrorIs(t, err, errDraining)
	require.ErrorIs(t, cause, errDraining, "who logs why an agent was disconnected asks for that")
}
