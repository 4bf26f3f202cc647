package kasapi

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/api/railsrpc"
)

const (
	// notifyTimeout is how long kas may take to hear.
	notifyTimeout = 2 * time.Second
	// maxNotifications is how many wait for a kas that is slow.
	maxNotifications = 256
)

// Notifier tells kas what it would otherwise find out by asking. What cannot be told at
// once is not told: kas asks sooner or later.
type Notifier struct {
	client railsrpc.NotificationsClient
	log    *zap.Logger
	queue  chan notification
}

type notification struct {
	about string
	send  func(context.Context) error
	// trace that it is part of, if that is valid.
	trace trace.SpanContext
}

// Notifier returns one over the client's connection.
func (c *Client) Notifier(log *zap.Logger) *Notifier {
	return &Notifier{client: railsrpc.NewNotificationsClient(c.conn), log: log, queue: make(chan notification, maxNotifications)}
}

// Pushed says that refs of a project were changed, as part of the trace of ctx. It does not
// block.
func (n *Notifier) Pushed(ctx context.Context, projectID int64, fullPath string) {
	n.put(trace.SpanContextFromContext(ctx), "push to "+fullPath, func(ctx context.Context) error {
		_, err := n.client.GitPushEvent(ctx, &railsrpc.GitPushEventRequest{Project: &railsrpc.Project{Id: projectID, FullPath: fullPath}})
		return err
	})
}

// AgentRevoked says that a token of an agent, or the agent itself, is no more. It does
// not block.
func (n *Notifier) AgentRevoked(agentID int64) {
	n.put(trace.SpanContext{}, "revoked token", func(ctx context.Context) error {
		_, err := n.client.AgentTokenRevoked(ctx, &railsrpc.AgentTokenRevokedRequest{AgentId: agentID})
		return err
	})
}

func (n *Notifier) put(within trace.SpanContext, about string, send func(context.Context) error) {
	select {
	case n.queue <- notification{about: about, send: send, trace: within}:
	default:
		n.log.Warn("kas is not told: too much waits for it already", zap.String("about", about))
	}
}

// Run tells kas, one thing after another, until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-n.queue:
			call, cancel := context.WithTimeout(trace.ContextWithSpanContext(ctx, next.trace), notifyTimeout)
			err := next.send(call)
			cancel()
			if err != nil && ctx.Err() == nil {
				n.log.Info("kas was not told, and finds out by itself", zap.String("about", next.about), zap.Error(err))
			}
		}
	}
}
