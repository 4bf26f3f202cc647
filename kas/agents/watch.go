package agents

import (
	"cmp"
	"context"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/logging"
)

// errFailed is why a stream ended whose handler panicked.
var errFailed = status.Error(codes.Internal, "kas failed")

// watchStream is one open Watch. There are many: all that its own goroutine, which is gRPC's, does
// by itself is to wait.
type watchStream struct {
	server *Server
	req    *agentrpc.WatchRequest
	stream grpc.ServerStreamingServer[agentrpc.WatchResponse]

	agent gitlabapi.AgentInfo
	guard *Guard
	// remove is nil where the agent was not let in; shared is nil then, or where it follows
	// nothing.
	shared *running
	remove func(why string)
}

// open lets the agent in, and has it take part in its feed. What it has done is undone by
// close.
func (w *watchStream) open(ctx context.Context) error {
	token, err := grpctool.BearerToken(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if w.agent, err = w.server.with.Access.Agent(ctx, token); err != nil {
		return err
	}
	path, err := ConfigurationPath(w.agent.AgentName)
	if err != nil {
		return status.Errorf(codes.Internal, "RoR: %v", err)
	}
	// The agent is to know that it was let in, however long its configuration takes.
	if err := w.stream.SendHeader(nil); err != nil {
		return err //nolint:wrapcheck // it is the RPC's status
	}
	meta := w.req.GetAgentMeta()
	w.remove = w.server.with.Registry.add(w.agent, meta)
	w.log().Info("Agent connected", zap.String("version", clip(meta.GetVersion())), zap.String("pod", clip(meta.GetPodName())))
	if w.shared, err = w.server.join(ctx, w.agent, path); err != nil {
		return err
	}
	w.shared.feed.hint(w.req.GetCommitId())
	w.guard = w.server.with.Access.NewGuard(token, w.agent)
	return nil
}

// close undoes open. end ends the context that was given to open; why is how the stream ends.
func (w *watchStream) close(end func(), why error) {
	reason := reasonOf(w.stream.Context(), why)
	end()
	if w.guard != nil {
		w.guard.End()
	}
	if w.shared != nil {
		w.server.leave(w.shared)
	}
	if w.remove != nil {
		w.log().Info("Agent disconnected", zap.String("reason", reason))
		w.remove(reason)
	}
}

// serve hands the agent each configuration that comes into force, until it may have no more.
func (w *watchStream) serve(ctx context.Context) error {
	for {
		cfg, changed := w.shared.feed.get()
		if cfg != nil {
			if err := grpctool.Aside(func() error { return w.send(cfg) }); err != nil {
				return err
			}
		}
		if err := w.guard.Wait(ctx, changed); err != nil {
			return err
		}
	}
}

func (w *watchStream) send(cfg *configuration) error {
	return w.stream.Send(&agentrpc.WatchResponse{ //nolint:wrapcheck // it is the RPC's status
		AgentId:       w.agent.AgentID,
		AgentName:     w.agent.AgentName,
		ProjectId:     w.agent.ProjectID,
		Configuration: cfg.full,
		CommitId:      cfg.commit,
	})
}

// log of the stream. It is made when it is used: a logger takes a kilobyte.
func (w *watchStream) log() *zap.Logger {
	return w.server.with.Log.With(logging.AgentID(w.agent.AgentID), zap.String("agent", w.agent.AgentName),
		zap.Int64("instance_id", w.req.GetAgentMeta().GetInstanceId()))
}

// reasonOf says why a stream has ended.
func reasonOf(ctx context.Context, err error) string {
	if ctx.Err() == nil {
		return status.Convert(err).Message()
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) { // kas has ended the stream
		return status.Convert(cause).Message()
	}
	if p, ok := peer.FromContext(ctx); ok {
		if from, ok := p.Addr.(interface{ Ending() string }); ok { // of kas's listener, which knows more
			return cmp.Or(from.Ending(), "agentk has ended its stream: it is being stopped")
		}
	}
	return "its connection has ended"
}
