package tunnel

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// frameTime is how long a frame takes at the rate of paced.
const frameTime = time.Second / 32

// paced runs a Server that holds large answers back at 32 frames a second. It returns two
// streams of it.
func paced(t *testing.T) (r *rig, large, small *kasStream) {
	t.Helper()
	svc := &service{unary: func(_ context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return &testpb.SimpleResponse{Payload: payload(int(req.GetResponseSize()))}, nil
	}}
	r = start(t, svc, func(_ *rig, cfg *Config) { cfg.LargeRate = 32 * tunnelwire.FrameSize })
	large = r.stream(t)
	large.send(t, wants(2))
	small = r.stream(t)
	return r, large, small
}

// ask makes a small RPC.
func (s *kasStream) ask(t *testing.T, rpc uint64) {
	t.Helper()
	s.send(t, whole(t, rpc, emptyCall, &testpb.Empty{}))
	require.NoError(t, tunnelwire.ToError(s.answer(t, rpc).trailers()))
}

// fetch begins an RPC whose answer has so many messages, which take 16 frames each.
func (s *kasStream) fetch(t *testing.T, rpc uint64, messages int) {
	t.Helper()
	request := &testpb.StreamingOutputCallRequest{}
	for range messages {
		request.ResponseParameters = append(request.ResponseParameters, &testpb.ResponseParameters{Size: 16*tunnelwire.FrameSize - 64})
	}
	s.send(t, whole(t, rpc, download, request))
}

// frames receives in the background, until the trailers.
func (s *kasStream) frames() <-chan *agentrpc.TunnelResponse {
	frames := make(chan *agentrpc.TunnelResponse, 1000)
	go func() {
		defer close(frames)
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			frames <- m
			if m.GetTrailers() != nil {
				return
			}
		}
	}()
	return frames
}

// trailers takes what is left of frames.
func trailers(frames <-chan *agentrpc.TunnelResponse) (last *agentrpc.TunnelTrailers) {
	for m := range frames {
		last = m.GetTrailers()
	}
	return last
}

// held waits until an answer is held back.
func (r *rig) held(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if !r.clock.HasWaiters() {
			return fmt.Errorf("nothing waits")
		}
		return nil
	})
}

func TestServer_LargeAnswerAloneIsNotHeld(t *testing.T) {
	r, large, _ := paced(t)
	large.fetch(t, 1, 8)
	require.NoError(t, tunnelwire.ToError(large.answer(t, 1).trailers()))
	require.Zero(t, testutil.ToFloat64(r.server.cfg.Metrics.held))
}

func TestServer_LargeAnswerIsHeldWhileOthersAsk(t *testing.T) {
	r, large, small := paced(t)
	small.ask(t, 1)
	large.fetch(t, 1, 8)
	frames := large.frames()
	const steps = 40 // longer than a second
	for n := range uint64(steps) {
		r.held(t)
		small.ask(t, 2+n) // which is answered meanwhile
		r.clock.Step(frameTime)
	}
	r.held(t)
	testkit.Eventually(t, func() error {
		if len(frames) <= steps {
			return fmt.Errorf("%d frames came", len(frames))
		}
		return nil
	})
	// What is free at first, and a second later, and what nobody had used; not the rest.
	require.LessOrEqual(t, len(frames), steps+3*largeAnswer/tunnelwire.FrameSize)
	require.InDelta(t, steps*frameTime.Seconds(), testutil.ToFloat64(r.server.cfg.Metrics.held), 0.01)

	r.clock.Step(2 * askedFor) // nobody asks any more
	require.NoError(t, tunnelwire.ToError(trailers(frames)))
}

func TestServer_LargeAnswersDoNotHoldEachOther(t *testing.T) {
	_, one, other := paced(t)
	one.fetch(t, 1, 8)
	require.NoError(t, tunnelwire.ToError(one.answer(t, 1).trailers()))
	other.fetch(t, 1, 8)
	require.NoError(t, tunnelwire.ToError(other.answer(t, 1).trailers()))
}

func TestServer_HeldAnswerHearsOfItsCancel(t *testing.T) {
	r, large, small := paced(t)
	small.ask(t, 1)
	large.fetch(t, 1, 8)
	frames := large.frames()
	r.held(t)
	large.send(t, &agentrpc.TunnelRequest{Rpc: 1, Cancel: true})
	require.Equal(t, codes.Canceled, status.Code(tunnelwire.ToError(trailers(frames))))
	large.ask(t, 2)
}

func TestServer_HeldAnswerOfAUnaryRPCHearsOfItsCancel(t *testing.T) {
	r, large, small := paced(t)
	small.ask(t, 1)
	large.send(t, whole(t, 1, unaryCall, &testpb.SimpleRequest{ResponseSize: 2 << 20}))
	frames := large.frames()
	r.held(t)
	large.send(t, &agentrpc.TunnelRequest{Rpc: 1, Cancel: true})
	require.Equal(t, codes.Canceled, status.Code(tunnelwire.ToError(trailers(frames))))
}

func TestPacer_HeldAnswerGivesItsTurnBack(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0))
	p := newPacer(clk, 1<<20, newMetrics().held)
	p.ended(&volume{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // each would take the next sixteenth of a second
		p.wait(gone, &volume{sent: largeAnswer, since: clk.Now()}, tunnelwire.FrameSize)
	}
	require.InDelta(t, 0, p.limit.TokensAt(clk.Now()), tunnelwire.FrameSize)
}

// A watch sends much at first, and little ever after.
func TestPacer_LittleAtATimeIsNotHeld(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0))
	p := newPacer(clk, 1, newMetrics().held) // who is held waits for ever
	v := &volume{}
	p.wait(t.Context(), v, largeAnswer)
	for range 1000 {
		clk.Step(largeFor / 3)
		p.ended(&volume{})
		p.wait(t.Context(), v, largeAnswer/4)
	}
}
