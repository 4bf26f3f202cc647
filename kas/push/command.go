package push

import (
	"context"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/tracing"
)

const (
	// commandTime bounds a command whose caller sets no deadline.
	commandTime = time.Minute
	// lookTime bounds how long SyncNow waits for what a poll finds before the agent is
	// asked all the same.
	lookTime = 10 * time.Second
)

// errGone answers those who wait for an agent whose stream has ended.
var errGone = status.Error(codes.Unavailable, "the connection to the agent was lost before it answered: try again")

// errSenseless is for an agent that answers something else than it was asked.
var errSenseless = status.Error(codes.Internal, "the agent's answer makes no sense: look at its log and its version")

// streamKey is what callers name a stream by.
type streamKey struct {
	agentID   int64
	projectID string
}

// book finds the open streams.
type book struct {
	mu sync.Mutex
	// open streams by agent and project, the newest last: a reconnecting agent may
	// for a moment have two.
	open map[streamKey][]*stream
	// asked counts the questions, which makes their IDs.
	asked uint64
}

func (b *book) add(s *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = make(map[streamKey][]*stream)
	}
	key := streamKey{s.agent.AgentID, s.wish.projectID}
	b.open[key] = append(b.open[key], s)
}

func (b *book) remove(s *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := streamKey{s.agent.AgentID, s.wish.projectID}
	var rest []*stream
	for _, other := range b.open[key] {
		if other != s {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(b.open, key)
		return
	}
	b.open[key] = rest
}

// has tells whether there is one.
func (b *book) has(key streamKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.open[key]) > 0
}

// find returns the newest stream and an ID for a question on it.
func (b *book) find(key streamKey) (s *stream, id string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	streams := b.open[key]
	if len(streams) == 0 {
		return nil, "", status.Errorf(codes.Unavailable, "agent %d is not connected for project %q", key.agentID, key.projectID)
	}
	b.asked++
	return streams[len(streams)-1], strconv.FormatUint(b.asked, 10), nil
}

// order is something to do in a stream's own goroutine.
type order struct {
	// do may send; its error ends the stream.
	do func() error
	// abandoned is closed when nobody waits for it any more.
	abandoned <-chan struct{}
	// done is closed when do has returned.
	done chan struct{}
}

// carryOut does what was ordered, after the newest set has been sent, so that an order
// is never about an older one.
func (s *stream) carryOut(ctx context.Context, o order) error {
	select {
	case <-o.abandoned:
		return nil
	default:
	}
	if v, _ := s.feed.now(); v != nil && v != s.seen {
		if err := s.showTimed(ctx, v); err != nil {
			return err
		}
	}
	defer close(o.done)
	return o.do()
}

// order has do called in the stream's own goroutine, between two sets, and returns when
// it has been. The error has a gRPC status.
func (s *stream) order(ctx context.Context, do func() error) error {
	o := order{do: do, abandoned: ctx.Done(), done: make(chan struct{})}
	select {
	case s.orders <- o:
	case <-s.gone:
		return errGone
	case <-ctx.Done():
		return lateness(ctx)
	}
	select {
	case <-o.done:
		return nil
	case <-s.gone:
		return errGone
	case <-ctx.Done():
		return lateness(ctx)
	}
}

func lateness(ctx context.Context) error {
	if err := status.FromContextError(ctx.Err()); err.Code() == codes.Canceled {
		return err.Err()
	}
	return status.Error(codes.DeadlineExceeded, "the agent did not answer in time")
}

// ask sends a question and returns where its answers arrive. The channel is closed when
// there are more answers than it has room for. done must be called.
func (s *stream) ask(ctx context.Context, id string, room int, send func() error) (answers <-chan *agentrpc.ConnectRequest, done func(), err error) {
	box := make(chan *agentrpc.ConnectRequest, room)
	s.mu.Lock()
	s.waiting[id] = box
	s.mu.Unlock()
	done = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting, id)
	}
	if err := s.order(ctx, send); err != nil {
		done()
		return nil, nil, err
	}
	return box, done, nil
}

// answered hands an answer to who waits for it, if anybody still does.
func (s *stream) answered(id string, answer *agentrpc.ConnectRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	box, ok := s.waiting[id]
	if !ok {
		return
	}
	select {
	case box <- answer:
	default:
		delete(s.waiting, id)
		close(box)
	}
}

// Follows tells whether an agent has a stream open here for a project, which is named as its
// configuration does.
func (s *Server) Follows(agentID int64, projectID string) bool {
	return s.book.has(streamKey{agentID, projectID})
}

// Command has an agent do what a person wants of one of its projects, which is named as
// the agent's configuration does, and returns when the agent has answered. Errors have a
// gRPC status: UNAVAILABLE where the agent is not connected or was lost,
// FAILED_PRECONDITION where it could not do it, DEADLINE_EXCEEDED where it did not
// answer. The command's ID is set here.
func (s *Server) Command(ctx context.Context, agentID int64, projectID string, command *agentrpc.Command) error {
	ctx, cancel := bounded(ctx, commandTime)
	defer cancel()
	err := s.command(ctx, streamKey{agentID, projectID}, command)
	s.audit(agentID, projectID, command.GetBy(), nameOf(command), err)
	return err
}

func (s *Server) command(ctx context.Context, key streamKey, command *agentrpc.Command) error {
	st, id, err := s.book.find(key)
	if err != nil {
		return err
	}
	if err := st.wish.capable(agentrpc.Capability_CAPABILITY_COMMANDS, "take commands"); err != nil {
		return err
	}
	command = proto.CloneOf(command)
	command.Id = id
	if command.GetSyncNow() != nil {
		if err := st.look(ctx); err != nil {
			return err
		}
	}
	answers, done, err := st.ask(ctx, id, 1, func() error {
		return st.rpc.Send(&agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Command{Command: command}})
	})
	if err != nil {
		return err
	}
	defer done()
	select {
	case answer := <-answers:
		result := answer.GetCommandResult()
		if result == nil {
			return errSenseless
		}
		if text := result.GetError(); text != "" {
			return status.Error(codes.FailedPrecondition, clip(text))
		}
		return nil
	case <-st.gone:
		return errGone
	case <-ctx.Done():
		return lateness(ctx)
	}
}

// look has the ref polled at once and waits until the feed knows what it names now: the
// newest set is not the newest before. Trouble with Gitaly is the status's to tell.
func (s *stream) look(ctx context.Context) error {
	fd, err := s.feedNow(ctx)
	if err != nil {
		return err
	}
	before, _ := fd.now()
	revision, err := s.server.feeds.source.Lookup(ctx, fd.repo, fd.ref)
	if err != nil {
		return nil // the poller meets it as well, and tells
	}
	s.server.feeds.source.Poke(func(r gitlabapi.GitalyRepository) bool {
		return r.StorageName == fd.repo.Repository.StorageName && r.RelativePath == fd.repo.Repository.RelativePath
	}, tracing.Traceparent(ctx))
	timer := s.server.clock.NewTimer(lookTime)
	defer timer.Stop()
	for {
		now, changed := fd.now()
		if now != nil && (now.wanted == revision.CommitID || before != nil && now.wanted != before.wanted) {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C():
			return nil
		case <-s.gone:
			return errGone
		case <-ctx.Done():
			return lateness(ctx)
		}
	}
}

// feedNow returns the stream's feed.
func (s *stream) feedNow(ctx context.Context) (*feed, error) {
	found := make(chan *feed, 1)
	if err := s.order(ctx, func() error { found <- s.feed; return nil }); err != nil {
		return nil, err
	}
	return <-found, nil
}

// audit tells the log who had what done.
func (s *Server) audit(agentID int64, projectID, by, what string, err error) {
	log := s.log.With(logging.AgentID(agentID), logging.Project(projectID), zap.String("by", by), zap.String("command", what))
	if err != nil {
		log.Warn("A person's command was not carried out", zap.Error(err))
		return
	}
	log.Info("A person's command was carried out")
}

func nameOf(command *agentrpc.Command) string {
	switch command.GetCommand().(type) {
	case *agentrpc.Command_SyncNow:
		return "sync"
	case *agentrpc.Command_Suspend:
		return "suspend"
	case *agentrpc.Command_Resume:
		return "resume"
	case *agentrpc.Command_ApprovePrune:
		return "approve prune of " + command.GetApprovePrune().GetCommitId()
	default:
		return "unknown"
	}
}

// bounded gives ctx a deadline unless it has one.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}
