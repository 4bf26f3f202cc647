package rails

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/tracing"
)

// holder is a replica whose agent has a stream, or not.
type holder struct {
	follows bool
	err     error // what it says all the same
	got     []string
	// parts of an answer that are sent before err.
	parts int
	// secret is what a caller's metadata says, if it came along.
	secret []string
}

func (h *holder) Follows(int64, string) bool { return h.follows }

func (h *holder) Command(ctx context.Context, _ int64, project string, c *agentrpc.Command) error {
	what := map[bool]string{true: "other "}[c.GetSyncNow() == nil]
	switch {
	case c.GetSuspend() != nil:
		what = "suspend "
	case c.GetResume() != nil:
		what = "resume "
	case c.GetSyncNow() != nil:
		what = "sync "
	case c.GetApprovePrune() != nil:
		what = "approve " + c.GetApprovePrune().GetCommitId() + " "
	}
	h.got = append(h.got, what+project+" by "+c.GetBy())
	md, _ := metadata.FromIncomingContext(ctx)
	h.secret = md.Get("authorization")
	return h.answer()
}

func (h *holder) Compare(_ context.Context, _ int64, project string, ref *agentcfg.GitRef, by string, send func(*railsrpc.DiffResponse) error) error {
	h.got = append(h.got, "diff "+project+" "+ref.GetBranch()+" by "+by)
	for range h.parts {
		if err := send(&railsrpc.DiffResponse{CommitId: by}); err != nil {
			return err
		}
	}
	return h.answer()
}

func (h *holder) answer() error {
	if h.err == nil && !h.follows {
		return status.Error(codes.Unavailable, "not connected")
	}
	return h.err
}

// replicas are the others.
type replicas struct {
	conns []grpc.ClientConnInterface
	err   error
}

func (r replicas) With(context.Context, int64) ([]grpc.ClientConnInterface, error) {
	return r.conns, r.err
}

// following knows the project, whoever has its stream.
type following struct{ knowing }

func (following) List(_ context.Context, agentID int64) ([]*syncstatus.ProjectStatus, *syncstatus.ConfigurationStatus) {
	return []*syncstatus.ProjectStatus{{AgentId: agentID, ProjectId: "a/b"}}, nil
}

// private serves a replica's own controls, as its private API does.
func private(t *testing.T, h *holder) grpc.ClientConnInterface {
	t.Helper()
	return serveWith(t, func(server *grpc.Server) { RegisterServices(server, knowing{}, following{}, h) })
}

var commands = map[string]*agentrpc.Command{
	"sync a/b by ann":    {By: "ann", Command: &agentrpc.Command_SyncNow{SyncNow: &agentrpc.SyncNow{}}},
	"suspend a/b by ann": {By: "ann", Command: &agentrpc.Command_Suspend{Suspend: &agentrpc.Suspend{}}},
	"resume a/b by ann":  {By: "ann", Command: &agentrpc.Command_Resume{Resume: &agentrpc.Resume{}}},
	"approve " + commitID + " a/b by ann": {By: "ann", Command: &agentrpc.Command_ApprovePrune{
		ApprovePrune: &agentrpc.ApprovePrune{CommitId: commitID},
	}},
}

const commitID = "0123456789012345678901234567890123456789"

func TestEverywhere_CommandsGoWhereTheStreamIs(t *testing.T) {
	for want, command := range commands {
		t.Run(want, func(t *testing.T) {
			here, none, there := &holder{}, &holder{}, &holder{follows: true}
			e := &Everywhere{Local: here, Others: replicas{conns: []grpc.ClientConnInterface{private(t, none), private(t, there)}}}
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer secret"))
			if err := e.Command(ctx, 7, "a/b", command); err != nil {
				t.Fatal(err)
			}
			if len(here.got) != 0 || !slices.Equal(there.got, []string{want}) {
				t.Errorf("here got %q, there got %q", here.got, there.got)
			}
			if len(there.secret) != 0 {
				t.Errorf("RoR's token went along: %q", there.secret)
			}

			here.follows = true
			if err := e.Command(ctx, 7, "a/b", command); err != nil || !slices.Equal(here.got, []string{want}) || len(there.got) != 1 {
				t.Errorf("here got %q, there %q: %v", here.got, there.got, err)
			}
		})
	}
}

func TestEverywhere_SaysWhatTheOneWithTheStreamSays(t *testing.T) {
	failed := status.Error(codes.FailedPrecondition, "the agent could not")
	for name, row := range map[string]struct {
		others []*holder
		lost   error // where they are cannot be found out
		want   codes.Code
	}{
		"it could not be done":         {others: []*holder{{follows: true, err: failed}, {follows: true}}, want: codes.FailedPrecondition},
		"one was lost, another has it": {others: []*holder{{}, {follows: true}}, want: codes.OK},
		"none has it":                  {others: []*holder{{}, {}}, want: codes.Unavailable},
		"there are no others":          {want: codes.Unavailable},
		"it cannot be found out where": {lost: errors.New("Redis is away"), want: codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			r := replicas{err: row.lost}
			for _, h := range row.others {
				r.conns = append(r.conns, private(t, h))
			}
			e := &Everywhere{Local: &holder{}, Others: r}
			for text, command := range commands {
				if err := e.Command(t.Context(), 7, "a/b", command); status.Code(err) != row.want {
					t.Errorf("%s: %v", text, err)
				}
			}
		})
	}
}

func TestEverywhere_ADiffIsHandedOn(t *testing.T) {
	here, there := &holder{}, &holder{follows: true, parts: 3}
	e := &Everywhere{Local: here, Others: replicas{conns: []grpc.ClientConnInterface{private(t, there)}}}
	diff := func() (parts int, err error) {
		err = e.Compare(t.Context(), 7, "a/b", &agentcfg.GitRef{Ref: &agentcfg.GitRef_Branch{Branch: "x"}}, "ann",
			func(r *railsrpc.DiffResponse) error {
				if r.GetCommitId() != "ann" {
					t.Errorf("got %v", r)
				}
				parts++
				return nil
			})
		return parts, err
	}
	if parts, err := diff(); parts != 3 || err != nil || !slices.Equal(there.got, []string{"diff a/b x by ann"}) {
		t.Errorf("got %d parts, %v; there got %q", parts, err, there.got)
	}
	// What was begun is not begun anew elsewhere.
	there.err = status.Error(codes.Unavailable, "lost")
	again := &holder{follows: true, parts: 3}
	e.Others = replicas{conns: []grpc.ClientConnInterface{private(t, there), private(t, again)}}
	if parts, err := diff(); parts != 3 || status.Code(err) != codes.Unavailable || len(again.got) != 0 {
		t.Errorf("got %d parts, %v; the other got %q", parts, err, again.got)
	}
	there.parts = 0
	if parts, err := diff(); parts != 3 || err != nil {
		t.Errorf("got %d parts, %v", parts, err)
	}
	wanted := errors.New("nobody reads")
	err := e.Compare(t.Context(), 7, "a/b", nil, "ann", func(*railsrpc.DiffResponse) error { return wanted })
	if !errors.Is(err, wanted) {
		t.Errorf("got %v", err)
	}
}

// buses carry what one tells to the other.
type buses struct{ to *Notifications }

func (b *buses) Tell(topic string, message []byte) {
	if topic == NotificationsTopic {
		b.to.Heard(message)
	}
}

func TestNotifications_ReachAllReplicas(t *testing.T) {
	ours, theirs, bus := &told{}, &told{}, &buses{}
	a := NewNotifications(ours, ours, bus)
	bus.to = NewNotifications(theirs, theirs, nil)
	const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := tracing.WithTraceparent(t.Context(), traceparent)
	if _, err := a.GitPushEvent(ctx, &railsrpc.GitPushEventRequest{Project: &railsrpc.Project{Id: 7}, Traceparent: "RoR's"}); err != nil {
		t.Fatal(err)
	}
	for _, heard := range []*told{ours, theirs} {
		if heard.match == nil || !heard.match(gitlabapi.GitalyRepository{GlRepository: "project-7"}) {
			t.Error("the repository is not polled")
		}
		if heard.traceparent != traceparent {
			t.Errorf("the poll is of the trace %q", heard.traceparent)
		}
	}
	if _, err := a.AgentTokenRevoked(t.Context(), &railsrpc.AgentTokenRevokedRequest{AgentId: 3}); err != nil {
		t.Fatal(err)
	}
	for _, heard := range []*told{ours, theirs} {
		if !slices.Equal(heard.recheck, []int64{3}) {
			t.Errorf("asked anew about %v", heard.recheck)
		}
	}
	for _, message := range []string{"", "p\xff", "r\xff", "x"} {
		bus.to.Heard([]byte(message))
	}
	bus.to.Heard(nil)
	if len(theirs.recheck) != 1 {
		t.Errorf("asked anew about %v", theirs.recheck)
	}
}
