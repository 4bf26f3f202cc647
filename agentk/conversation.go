package agentk

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/tracing"
)

// maxCommands is how many commands wait for the one that is being carried out.
const maxCommands = 16

// capabilities are what a conversation understands.
var capabilities = []agentrpc.Capability{agentrpc.Capability_CAPABILITY_COMMANDS, agentrpc.Capability_CAPABILITY_COMPARISONS}

// conversation is what goes over one stream beside sets and reports.
type conversation struct {
	commands chan *agentrpc.Command
	// comparisons holds the set that is to be compared: kas asks for one at a time, so
	// that it has given up on one when it asks for another.
	comparisons desired.Slot[*desired.Set]

	mu     sync.Mutex
	stream agentrpc.Sync_ConnectClient
}

func newConversation(stream agentrpc.Sync_ConnectClient) *conversation {
	return &conversation{stream: stream, commands: make(chan *agentrpc.Command, maxCommands)}
}

// send may be called by several goroutines.
func (c *conversation) send(request *agentrpc.ConnectRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream.Send(request) //nolint:wrapcheck // the caller's to say what it is about
}

func (c *conversation) report(r *agentrpc.Report) error {
	return c.send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Report{Report: r}})
}

// answer tells kas what came of a command. That it cannot be sent is the stream's end,
// which its reader meets.
func (c *conversation) answer(id string, err error) {
	result := &agentrpc.CommandResult{Id: id}
	if err != nil {
		result.Error = report.Clip(err.Error())
	}
	_ = c.send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_CommandResult{CommandResult: result}})
}

// command takes a command on, without waiting.
func (c *conversation) command(command *agentrpc.Command) {
	select {
	case c.commands <- command:
	default:
		c.answer(command.GetId(), fmt.Errorf("%d commands are waiting already: try again later", maxCommands)) //nolint:err113 // for people
	}
}

// obeyAll carries out commands, one after another, until ctx ends.
func (w *worker) obeyAll(ctx context.Context, c *conversation) {
	for {
		select {
		case <-ctx.Done():
			return
		case command := <-c.commands:
			err := w.obey(ctx, command)
			log := w.log.With(zap.String("by", command.GetBy()), zap.String("command", commandName(command)))
			if err != nil {
				log.Warn("A person's command was not carried out", zap.Error(err))
			} else {
				log.Info("A person's command was carried out")
			}
			c.answer(command.GetId(), err)
		}
	}
}

func commandName(c *agentrpc.Command) string {
	switch what := c.GetCommand().(type) {
	case *agentrpc.Command_SyncNow:
		return "sync"
	case *agentrpc.Command_Suspend:
		return "suspend"
	case *agentrpc.Command_Resume:
		return "resume"
	case *agentrpc.Command_ApprovePrune:
		return "approve prune of " + what.ApprovePrune.GetCommitId()
	default:
		return "unknown"
	}
}

// compareAll answers comparisons until ctx ends. A newer one pre-empts the one at work.
func (w *worker) compareAll(ctx context.Context, c *conversation) {
	for ctx.Err() == nil {
		set, filled, newer := c.comparisons.Get()
		cancelledBy(ctx, newer, nil, func(ctx context.Context) {
			if filled {
				w.compare(ctx, c, set)
			}
			<-ctx.Done()
		})
	}
}

func (w *worker) compare(ctx context.Context, c *conversation, set *desired.Set) {
	ctx, span := w.tracing.StartWithin(tracing.WithTraceparent(ctx, set.Traceparent), "compare", w.about(set)...)
	defer span.End()
	began := w.clock.Now()
	decided, _, _ := w.control.newest.Get()
	project, err := w.projectFor(set, decided)
	if err == nil {
		differences, diffErr := w.engine.Diff(ctx, project, set.Desired)
		for _, part := range report.Comparisons(set.ComparisonID, differences) {
			if diffErr == nil {
				_ = c.send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Comparison{Comparison: part}})
			}
		}
		err = diffErr
	}
	if err != nil {
		failed := &agentrpc.Comparison{Id: set.ComparisonID, Error: report.Clip("the cluster could not be compared: " + trouble(err))}
		_ = c.send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Comparison{Comparison: failed}})
	}
	w.log.Info("Commit compared with the cluster", logging.Commit(set.Commit), zap.Int("objects", len(set.Set.Objects)),
		zap.Duration("took", w.clock.Since(began)), zap.Error(err))
}
