package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
)

// stream is one open Connect. Its methods run in Connect's goroutine, but for
// receive.
type stream struct {
	server *Server
	rpc    grpc.BidiStreamingServer[agentrpc.ConnectRequest, agentrpc.ConnectResponse]
	token  string
	agent  gitlabapi.AgentInfo
	// rechecked is closed when there is reason to ask about the agent again.
	rechecked <-chan struct{}
	wish      *wish

	project gitlabapi.ProjectInfo
	feed    *feed
	// view that was acted on last.
	seen *view
	// sent is the set that was sent last; until there is one, the agent holds what
	// its wish says.
	sent   *built
	sentAt time.Time

	// story is there before ready is closed.
	story *story

	// orders are for the stream's own goroutine, between two sets.
	orders chan order
	// comparing holds a token while a comparison is under way.
	comparing chan struct{}
	// gone is closed when the stream has ended.
	gone chan struct{}

	mu     sync.Mutex
	closed bool // no report goes to the Status any more
	// waiting are those who wait for the agent's answers, by what they asked.
	waiting map[string]chan<- *agentrpc.ConnectRequest
}

func newStream(server *Server, rpc grpc.BidiStreamingServer[agentrpc.ConnectRequest, agentrpc.ConnectResponse], token string, agent gitlabapi.AgentInfo) *stream {
	return &stream{
		server: server, rpc: rpc, token: token, agent: agent, rechecked: server.access.Rechecked(agent.AgentID),
		orders: make(chan order), comparing: make(chan struct{}, 1), gone: make(chan struct{}),
		waiting: make(map[string]chan<- *agentrpc.ConnectRequest),
	}
}

// run serves the stream until the agent hangs up, loses its access, or kas stops.
func (s *stream) run(ctx context.Context) error {
	hello := make(chan *agentrpc.ConnectRequest) // closed when receiving has ended
	ready := make(chan struct{})
	ended := make(chan error, 1)
	s.server.streams.Add(1)
	go func() { // Recv returns when Connect has returned, at the latest
		defer s.server.streams.Done()
		ended <- s.receive(ctx, hello, ready)
	}()
	select {
	case <-s.server.draining:
		return errDraining
	case err := <-ended:
		return err
	case request := <-hello:
		var err error
		if s.wish, err = readHello(request, s.server.config.Limits); err != nil {
			return err
		}
	}
	if err := s.authorise(ctx); err != nil {
		return err
	}
	s.server.status.Connected(s.agent, s.wish.projectID)
	defer s.close()
	s.story = &story{clock: s.server.clock, log: s.server.log, agentID: s.agent.AgentID, agentName: s.agent.AgentName, projectID: s.wish.projectID}
	close(ready)
	s.server.book.add(s)
	s.feed = s.server.feeds.join(ctx, s.repository(), s.wish)
	defer func() { s.server.feeds.leave(s.feed) }()
	return s.serve(ctx, ended)
}

// close ends what others hear of the stream.
func (s *stream) close() {
	s.server.book.remove(s)
	close(s.gone)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.server.status.Disconnected(s.agent, s.wish.projectID)
}

// receive reads the stream: the first message goes to hello; reports, which may not
// come before ready is closed, go to the Status.
func (s *stream) receive(ctx context.Context, hello chan<- *agentrpc.ConnectRequest, ready <-chan struct{}) error {
	for first := true; ; first = false {
		request, err := s.rpc.Recv()
		if errors.Is(err, io.EOF) {
			return nil // the agent has no more to say: it is leaving
		}
		if err != nil {
			return err //nolint:wrapcheck // the RPC's own status
		}
		if first {
			select {
			case hello <- request:
			case <-ctx.Done():
				return status.FromContextError(ctx.Err()).Err()
			}
			select {
			case <-ready:
			case <-ctx.Done():
				return status.FromContextError(ctx.Err()).Err()
			}
			continue
		}
		if err := s.take(request); err != nil {
			return err
		}
	}
}

// take acts on a message after Hello. One that this kas does not know is skipped: the
// agent may be newer.
func (s *stream) take(request *agentrpc.ConnectRequest) error {
	switch m := request.GetMessage().(type) {
	case *agentrpc.ConnectRequest_Hello:
		return status.Error(codes.InvalidArgument, "Hello may come only once")
	case *agentrpc.ConnectRequest_Report:
		if err := checkReport(m.Report); err != nil {
			return status.Errorf(codes.InvalidArgument, "Report: %v", err)
		}
		s.story.reported(m.Report)
		s.report(m.Report)
	case *agentrpc.ConnectRequest_CommandResult:
		s.answered(m.CommandResult.GetId(), request)
	case *agentrpc.ConnectRequest_Comparison:
		if n := proto.Size(m.Comparison); n > maxComparison {
			return status.Errorf(codes.InvalidArgument, "Comparison has %d bytes, more than the limit of %d", n, maxComparison)
		}
		s.answered(m.Comparison.GetId(), request)
	}
	return nil
}

func (s *stream) report(report *agentrpc.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.server.status.Report(s.agent, s.wish.projectID, report)
	}
}

// authorise learns where the project is.
func (s *stream) authorise(ctx context.Context) error {
	project, err := s.server.access.Project(ctx, s.token, s.wish.projectID)
	if err != nil {
		return s.noAccess(err)
	}
	s.project = project
	return nil
}

// noAccess returns the status that ends the stream, and shows people why.
func (s *stream) noAccess(err error) error {
	if status.Code(err) == codes.NotFound {
		err = status.Errorf(codes.NotFound, "project %q does not exist, or the agent may not read it: correct its id in the agent's configuration, or give the agent's project access to it", s.wish.projectID)
	}
	err = refusal(err)
	if refused(err) {
		s.server.status.Source(s.agent, s.wish.projectID, &syncstatus.ProjectStatus{
			Ref: s.wish.ref.String(), State: syncstatus.State_STATE_FAILED, Message: status.Convert(err).Message(),
		})
	}
	return err
}

func (s *stream) repository() gitrepo.Repository {
	return gitrepo.Repository{Server: s.project.GitalyInfo, Repository: s.project.GitalyRepository}
}

// serve sends what the feed has, whenever it is new.
func (s *stream) serve(ctx context.Context, ended <-chan error) error {
	rechecks := s.newRechecks()
	defer rechecks.timer.Stop()
	for {
		v, changed := s.feed.now()
		if v != nil && v != s.seen {
			if err := s.showTimed(ctx, v); err != nil {
				return err
			}
			// Something newer may be there already; however often people push,
			// orders get their turn.
			select {
			case o := <-s.orders:
				if err := s.carryOut(ctx, o); err != nil {
					return err
				}
			default:
			}
			continue
		}
		select {
		case <-s.server.draining:
			return errDraining
		case err := <-ended:
			return err
		case o := <-s.orders:
			if err := s.carryOut(ctx, o); err != nil {
				return err
			}
		case <-changed:
		case <-rechecks.timer.C():
			rechecks.begin(ctx)
		case <-s.rechecked:
			s.rechecked = s.server.access.Rechecked(s.agent.AgentID)
			rechecks.begin(ctx)
		case result := <-rechecks.results:
			if err := s.apply(ctx, result); err != nil {
				return err
			}
			rechecks.ended(ctx)
		}
	}
}

// access is what RoR says of an agent and its project.
type access struct {
	project gitlabapi.ProjectInfo
	err     error
}

func (s *stream) recheck(ctx context.Context) access {
	if _, err := s.server.access.Agent(ctx, s.token); err != nil {
		return access{err: err}
	}
	project, err := s.server.access.Project(ctx, s.token, s.wish.projectID)
	return access{project: project, err: err}
}

// apply acts on a recheck: access may be lost, or the repository have moved.
func (s *stream) apply(ctx context.Context, result access) error {
	switch {
	case refused(result.err):
		return s.noAccess(result.err)
	case result.err == nil: // or RoR is away, and what it said last stands
		s.project = result.project
		if keyOf(s.repository(), s.wish) != s.feed.key {
			before := s.feed
			s.feed = s.server.feeds.join(ctx, s.repository(), s.wish)
			s.server.feeds.leave(before)
		}
	}
	return nil
}

// showTimed shows a view. An agent that took long to read is checked again before it is
// sent anything newer: it may have lost its access meanwhile.
func (s *stream) showTimed(ctx context.Context, v *view) error {
	began := s.server.clock.Now()
	if err := s.show(v); err != nil {
		return err
	}
	if s.server.clock.Since(began) < s.server.config.RecheckPeriod {
		return nil
	}
	return s.apply(ctx, s.recheck(ctx))
}

// show tells the Status of a view, and sends its set unless that was sent last.
func (s *stream) show(v *view) error {
	s.seen = v
	if v.built == nil || v.built == s.sent {
		s.tell(v)
		return nil
	}
	late := s.sent != nil // or it was detected while the agent was away
	s.sentAt = time.Time{}
	s.tell(v)
	if err := s.send(v.built); err != nil {
		return err
	}
	s.sentAt = s.server.clock.Now()
	if late && !v.built.detectedAt.IsZero() {
		s.server.metrics.latency.Observe(s.sentAt.Sub(v.built.detectedAt).Seconds())
	}
	s.tell(v)
	return nil
}

// tell tells the Status of a view.
func (s *stream) tell(v *view) {
	update := &syncstatus.ProjectStatus{
		ProjectPath:  s.project.GitalyRepository.GlProjectPath,
		Ref:          v.ref.String(),
		WantedCommit: v.wanted,
		Times:        &syncstatus.Times{},
		Message:      explain(v.problem),
	}
	if v.problem != nil {
		update.State = syncstatus.State_STATE_FAILED
	}
	if !v.detectedAt.IsZero() {
		update.Times.DetectedAt = timestamppb.New(v.detectedAt)
	}
	if b := v.built; b != nil && b.commitID == v.wanted {
		update.Errors = append(update.Errors, b.errors...)
		if update.Message == "" {
			update.Message = b.note
		}
		if b == s.sent && !s.sentAt.IsZero() {
			update.Times.SentAt = timestamppb.New(s.sentAt)
		}
	}
	s.server.status.Source(s.agent, s.wish.projectID, update)
}

// send sends a whole set: what the agent lacks of it, the list, and the trailer.
func (s *stream) send(b *built) error {
	s.story.begin(b)
	mode, base := agentrpc.Mode_MODE_FULL, ""
	var fresh *delta
	switch {
	case s.sent != nil:
		mode, base = agentrpc.Mode_MODE_DELTA, s.sent.commitID
		fresh = s.feed.delta(s.sent, b)
	case s.wish.commitID != "":
		mode, base = agentrpc.Mode_MODE_DELTA, s.wish.commitID
		fresh = newDelta(&b.set, s.wish.held)
	default:
		fresh = s.feed.delta(nil, b)
	}
	if err := s.sendSet(b, fresh, &agentrpc.Header{Mode: mode, BaseCommitId: base}); err != nil {
		return err
	}
	s.sent, s.wish.held = b, nil // the set's own digests are what it holds now
	m := s.server.metrics
	m.sets.WithLabelValues(map[agentrpc.Mode]string{agentrpc.Mode_MODE_FULL: "full", agentrpc.Mode_MODE_DELTA: "delta"}[mode]).Inc()
	m.objects.Add(float64(fresh.objects))
	m.bytes.Add(float64(fresh.bytes))
	s.story.sent(b, fresh)
	return nil
}

// sendSet sends the messages of a set, whose header it completes.
func (s *stream) sendSet(b *built, fresh *delta, header *agentrpc.Header) error {
	header.CommitId, header.Ref = b.commitID, b.ref
	header.ProjectId, header.ProjectPath = s.project.ProjectID, s.project.GitalyRepository.GlProjectPath
	header.DetectedAt = timestamppb.New(b.detectedAt)
	first := []*agentrpc.ConnectResponse{{Message: &agentrpc.ConnectResponse_Header{Header: header}}}
	for _, part := range [][]*agentrpc.ConnectResponse{first, fresh.messages, b.refs(), {b.trailer}} {
		for _, message := range part {
			if err := s.rpc.Send(message); err != nil {
				return fmt.Errorf("send the set of commit %s: %w", b.commitID, err)
			}
		}
	}
	return nil
}
