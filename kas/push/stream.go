package push

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// stream is one open Connect. Its methods run in Connect's goroutine, or aside while that
// waits for them, but for receive.
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

	// story is there once the stream is open.
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

func newStream(server *Server, rpc grpc.BidiStreamingServer[agentrpc.ConnectRequest, agentrpc.ConnectResponse]) *stream {
	return &stream{
		server: server, rpc: rpc,
		orders: make(chan order), comparing: make(chan struct{}, 1), gone: make(chan struct{}),
		waiting: make(map[string]chan<- *agentrpc.ConnectRequest),
	}
}

// authenticate learns whose stream it is.
func (s *stream) authenticate() error {
	ctx := s.rpc.Context()
	var err error
	if s.token, err = grpctool.BearerToken(ctx); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if s.agent, err = s.server.access.Agent(ctx, s.token); err != nil {
		return refusal(err)
	}
	s.rechecked = s.server.access.Rechecked(s.agent.AgentID)
	return nil
}

// run serves the stream until the agent hangs up or loses its access, kas stops, or ctx ends.
func (s *stream) run(ctx context.Context) error {
	switch err := s.greet(ctx); {
	case errors.Is(err, io.EOF):
		return nil // it has left without a word
	case err != nil:
		return err
	}
	defer s.end()
	ended := make(chan error, 1)
	s.server.streams.Add(1)
	go func() { // Recv returns when Connect has returned, at the latest
		defer s.server.streams.Done()
		ended <- s.receive(ctx)
	}()
	return s.serve(ctx, ended)
}

// greet waits for Hello and opens the stream. io.EOF: none came.
func (s *stream) greet(ctx context.Context) error {
	type first struct {
		request *agentrpc.ConnectRequest
		err     error
	}
	came := make(chan first, 1)
	s.server.streams.Add(1)
	go func() { // as above
		defer s.server.streams.Done()
		request, err := s.rpc.Recv()
		came <- first{request, err}
	}()
	select {
	case <-s.server.draining:
		return errDraining
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case f := <-came:
		if f.err != nil {
			return f.err // the RPC's own status
		}
		return grpctool.Aside(func() error { return s.open(ctx, f.request) })
	}
}

// open makes the stream known to others. end undoes it.
func (s *stream) open(ctx context.Context, hello *agentrpc.ConnectRequest) error {
	var err error
	if s.wish, err = readHello(hello, s.server.config.Limits); err != nil {
		return err
	}
	if err := s.authorise(ctx); err != nil {
		return err
	}
	s.server.status.Connected(s.agent, s.wish.projectID)
	s.story = &story{clock: s.server.clock, log: s.server.log, agentID: s.agent.AgentID, agentName: s.agent.AgentName, projectID: s.wish.projectID}
	s.server.book.add(s)
	s.feed = s.server.feeds.join(ctx, s.repository(), s.wish)
	return nil
}

// end ends what others hear of the stream.
func (s *stream) end() {
	s.server.feeds.leave(s.feed)
	s.server.book.remove(s)
	close(s.gone)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.server.status.Disconnected(s.agent, s.wish.projectID)
}

// receive reads the stream after Hello.
func (s *stream) receive(ctx context.Context) error {
	for {
		request, err := s.rpc.Recv()
		if errors.Is(err, io.EOF) {
			return nil // the agent has no more to say: it is leaving
		}
		if err != nil {
			return err //nolint:wrapcheck // the RPC's own status
		}
		if err := grpctool.Aside(func() error { return s.take(ctx, request) }); err != nil {
			return err
		}
	}
}

// take acts on a message after Hello. One that this kas does not know is skipped: the
// agent may be newer.
func (s *stream) take(ctx context.Context, request *agentrpc.ConnectRequest) error {
	switch m := request.GetMessage().(type) {
	case *agentrpc.ConnectRequest_Hello:
		return status.Error(codes.InvalidArgument, "Hello may come only once")
	case *agentrpc.ConnectRequest_Report:
		if err := checkReport(m.Report); err != nil {
			return status.Errorf(codes.InvalidArgument, "Report: %v", err)
		}
		s.traceReport(ctx, m.Report)
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

// serve sends what the feed has, whenever it is new. All that it does by itself is to wait.
func (s *stream) serve(ctx context.Context, ended <-chan error) error {
	rechecks := s.newRechecks()
	defer rechecks.timer.Stop()
	for {
		v, changed := s.feed.now()
		if v != nil && v != s.seen {
			if err := grpctool.Aside(func() error { return s.showNewest(ctx, v) }); err != nil {
				return err
			}
			continue // something newer may be there already
		}
		var err error
		select {
		case <-s.server.draining:
			return errDraining
		case <-ctx.Done(): // kas may end it, and what is received knows nothing of that
			return status.FromContextError(ctx.Err()).Err()
		case err := <-ended:
			return err
		case o := <-s.orders:
			err = grpctool.Aside(func() error { return s.carryOut(ctx, o) })
		case <-changed:
		case <-rechecks.timer.C():
			rechecks.begin(ctx)
		case <-s.rechecked:
			s.rechecked = s.server.access.Rechecked(s.agent.AgentID)
			rechecks.begin(ctx)
		case result := <-rechecks.results:
			if err = grpctool.Aside(func() error { return s.apply(ctx, result) }); err == nil {
				rechecks.ended(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
}

// showNewest shows a view, and carries out an order that waits: however often people push,
// orders get their turn.
func (s *stream) showNewest(ctx context.Context, v *view) error {
	if err := s.showTimed(ctx, v); err != nil {
		return err
	}
	select {
	case o := <-s.orders:
		return s.carryOut(ctx, o)
	default:
		return nil
	}
}
