package push

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/manifests"
)

const (
	// compareTime bounds a comparison whose caller sets no deadline.
	compareTime = 5 * time.Minute
	// maxComparisons is how many are under way at once, for all agents: each may hold a
	// set of its own and compareRoom parts of an answer.
	maxComparisons = 8
	// maxWaiting is how many comparisons wait for their turn.
	maxWaiting = 64
	// maxComparison is the largest part of an answer, in bytes: what agentrpc says, and
	// some room for one large object.
	maxComparison = 2 << 20
	// compareRoom is how many parts of an answer wait for a caller who reads slowly:
	// reports of the same stream must not wait for it.
	compareRoom = 32
)

// Compare tells what a ref or commit of a project's repository would do to the agent's
// cluster, and changes nothing. A nil ref is what the project follows. send is called
// with the commit and what is wrong in it, and then with the differences, in order.
// Errors have a gRPC status, as Command's.
func (s *Server) Compare(ctx context.Context, agentID int64, projectID string, ref *agentcfg.GitRef, by string, send func(*railsrpc.DiffResponse) error) error {
	ctx, cancel := bounded(ctx, compareTime)
	defer cancel()
	err := s.compare(ctx, streamKey{agentID, projectID}, ref, send)
	s.audit(agentID, projectID, by, "diff", err)
	return err
}

func (s *Server) compare(ctx context.Context, key streamKey, ref *agentcfg.GitRef, send func(*railsrpc.DiffResponse) error) error {
	st, id, err := s.book.find(key)
	if err != nil {
		return err
	}
	if err := st.wish.capable(agentrpc.Capability_CAPABILITY_COMPARISONS, "compare a commit with the cluster"); err != nil {
		return err
	}
	leave, err := s.comparisons.wait()
	if err != nil {
		return err
	}
	defer leave()
	// One at a time: the agent asks the API server about every object.
	if err := st.turn(ctx, st.comparing, "another comparison of this project is still under way: try again later"); err != nil {
		return err
	}
	defer func() { <-st.comparing }()
	if err := st.turn(ctx, s.comparisons.slots, "too many other comparisons are under way: try again later"); err != nil {
		return err
	}
	defer func() { <-s.comparisons.slots }()
	send = inTime(ctx, send)
	b, err := s.setOf(ctx, st, ref)
	if err != nil {
		return err
	}
	if err := send(&railsrpc.DiffResponse{CommitId: b.commitID, Errors: b.errors}); err != nil {
		return err
	}
	answers, done, err := st.ask(ctx, id, compareRoom, func() error { return st.sendComparison(id, b) })
	if err != nil {
		return err
	}
	defer done()
	for more := true; more; {
		select {
		case answer, ok := <-answers:
			if !ok {
				return status.Error(codes.ResourceExhausted, "the comparison was read too slowly")
			}
			if answer.GetComparison() == nil {
				return errSenseless
			}
			if more, err = handOn(answer.GetComparison(), send); err != nil {
				return err
			}
		case <-st.gone:
			return errGone
		case <-ctx.Done():
			return lateness(ctx)
		}
	}
	return nil
}

// room bounds how many do something at once, and how many wait for it.
type room struct {
	slots, waiting chan struct{}
}

func newRoom(slots, waiting int) room {
	return room{slots: make(chan struct{}, slots), waiting: make(chan struct{}, slots+waiting)}
}

// wait takes a place in the queue, which the result leaves.
func (r room) wait() (leave func(), err error) {
	select {
	case r.waiting <- struct{}{}:
		return func() { <-r.waiting }, nil
	default:
		return nil, status.Error(codes.ResourceExhausted, "too many comparisons are waiting already: try again later")
	}
}

// turn puts a token into slots once there is room. Where there is room at once it is
// taken even by a caller who is late already, so that late is said of nothing else than
// of what was waited for.
func (s *stream) turn(ctx context.Context, slots chan<- struct{}, late string) error {
	select {
	case slots <- struct{}{}:
		return nil
	default:
	}
	select {
	case slots <- struct{}{}:
		return nil
	case <-s.gone:
		return errGone
	case <-ctx.Done():
		return status.Error(codes.DeadlineExceeded, late)
	}
}

// inTime is send, but returns when ctx ends: a caller who does not read would keep it for
// ever. gRPC ends the call that is left behind when the RPC has returned.
func inTime(ctx context.Context, send func(*railsrpc.DiffResponse) error) func(*railsrpc.DiffResponse) error {
	return func(response *railsrpc.DiffResponse) error {
		sent := make(chan error, 1)
		go func() { sent <- send(response) }()
		select {
		case err := <-sent:
			return err
		case <-ctx.Done():
			return status.Error(codes.DeadlineExceeded, "the comparison was read too slowly")
		}
	}
}

// handOn hands a part of an answer to the caller, and tells whether there is more.
func handOn(part *agentrpc.Comparison, send func(*railsrpc.DiffResponse) error) (more bool, err error) {
	if text := part.GetError(); text != "" {
		return false, status.Error(codes.FailedPrecondition, clip(text))
	}
	for i, d := range part.GetDifferences() {
		if err := checkID(d.GetId()); err != nil {
			return false, status.Errorf(codes.Internal, "the agent's answer makes no sense: difference %d: %v", i, err)
		}
		if _, known := syncstatus.Action_name[int32(d.GetAction())]; !known {
			d.Action = syncstatus.Action_ACTION_UNSPECIFIED
		}
		d.Message = clip(d.GetMessage())
	}
	if len(part.GetDifferences()) > 0 {
		if err := send(&railsrpc.DiffResponse{Differences: part.GetDifferences()}); err != nil {
			return false, err
		}
	}
	return part.GetMore(), nil
}

// setOf makes the set of a ref as the stream's project asks for it.
func (s *Server) setOf(ctx context.Context, st *stream, asked *agentcfg.GitRef) (*built, error) {
	fd, err := st.feedNow(ctx)
	if err != nil {
		return nil, err
	}
	ref := fd.ref
	if asked != nil {
		if ref, err = refOf(asked); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "ref: %v", err)
		}
	}
	revision, err := s.feeds.source.Lookup(ctx, fd.repo, ref)
	if err != nil {
		return nil, unreadable(ctx, ref, err)
	}
	if v, _ := fd.now(); v != nil && v.built != nil && v.built.commitID == revision.CommitID {
		return v.built, nil
	}
	once := fd.once()
	set, err := once.read(ctx, revision.CommitID)
	if err != nil {
		return nil, unreadable(ctx, ref, err)
	}
	return newBuilt(revision, set, ""), nil
}

// once is a feed that nobody runs, to read one commit by.
func (f *feed) once() *feed {
	return &feed{feeds: f.feeds, key: f.key, repo: f.repo, ref: f.ref, selector: f.selector, namespace: f.namespace, log: f.log}
}

// unreadable says to the caller why a commit could not be read.
func unreadable(ctx context.Context, ref gitrepo.Ref, err error) error {
	var missing *gitrepo.RefNotFoundError
	switch {
	case ctx.Err() != nil:
		return lateness(ctx)
	case errors.As(err, &missing):
		return status.Errorf(codes.FailedPrecondition, "the repository has no %s", ref)
	case gitrepo.IsPassing(err):
		return status.Errorf(codes.Unavailable, "the repository cannot be read: %v", err)
	default:
		return status.Error(codes.FailedPrecondition, explain(err))
	}
}

// sendComparison sends a set that is only to be compared: what the agent holds stays as
// it is.
func (s *stream) sendComparison(id string, b *built) error {
	var held map[manifests.Digest]struct{}
	base := s.wish.commitID
	if held = s.wish.held; s.sent != nil {
		held, base = s.sent.digests, s.sent.commitID
	}
	mode := agentrpc.Mode_MODE_FULL
	if base != "" {
		mode = agentrpc.Mode_MODE_DELTA
	}
	header := &agentrpc.Header{Mode: mode, BaseCommitId: base, ComparisonId: id}
	if err := s.sendSet(b, newDelta(&b.set, held), header); err != nil {
		return fmt.Errorf("for a comparison: %w", err)
	}
	return nil
}
