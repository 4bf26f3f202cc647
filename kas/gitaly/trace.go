package gitaly

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/tracing"
)

// maxCauses is how many causes of a poll are kept: people push often.
const maxCauses = 8

// causes are the trace contexts of what made a poll due.
type causes struct {
	mu   sync.Mutex
	list []string
}

// add adds one, unless it is empty, while there is room.
func (c *causes) add(traceparent string) {
	if traceparent == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) < maxCauses {
		c.list = append(c.list, traceparent)
	}
}

// take returns the causes, in order, and forgets them.
func (c *causes) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.list
	c.list = nil
	return list
}

// giveBack is for those that were taken in vain: they come before those since then.
func (c *causes) giveBack(list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list = append(list, c.list...)
	c.list = list[:min(maxCauses, len(list))]
}

// trace makes the span of a poll that has just found another commit, below its first cause,
// and returns its trace context. It is made when all is over because most polls find nothing,
// and those are no spans.
func (p *poller) trace(ctx context.Context, causes []string, began time.Time, ref gitrepo.Ref) string {
	if !p.refs.tracing.Enabled() {
		return ""
	}
	options := []trace.SpanStartOption{
		trace.WithTimestamp(began),
		trace.WithAttributes(
			tracing.Project(p.repository().Repository.GlProjectPath),
			attribute.String("ref", ref.String()), tracing.Commit(p.commitID),
		),
	}
	if len(causes) > 0 {
		ctx = tracing.WithTraceparent(ctx, causes[0])
		for _, cause := range causes[1:] {
			other := trace.SpanContextFromContext(tracing.WithTraceparent(ctx, cause))
			options = append(options, trace.WithLinks(trace.Link{SpanContext: other}))
		}
	}
	ctx, span := p.refs.tracing.Tracer().Start(ctx, "poll", options...)
	span.End(trace.WithTimestamp(p.detectedAt))
	return tracing.Traceparent(ctx)
}
