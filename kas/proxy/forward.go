package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// Why a request's context ends, other than by its client or errDraining.
var (
	errOver    = errors.New("the request is over")
	errNoAgent = errors.New("no agent took the request in time")
)

// transfer is a request that is passed on.
type transfer struct {
	server  *Server
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	x       *exchange
	// upgrade is the protocol to go on with; empty: none.
	upgrade string
	// as is whom the agent impersonates; nil: nobody.
	as     *agentrpc.Impersonation
	stream grpc.ClientStream
	cancel context.CancelCauseFunc
}

// forward has a request answered by the cluster.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, x *exchange, target string, as *agentrpc.Impersonation) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(errOver)
	t := &transfer{server: s, w: w, r: r, control: http.NewResponseController(w), x: x, upgrade: upgradeOf(r), as: as, cancel: cancel}
	if t.upgrade != "" && r.ContentLength != 0 {
		return refuse(http.StatusBadRequest, "a request that asks for %s must not have a body", t.upgrade)
	}
	long := t.upgrade != "" || isLong(r)
	leave, ok := s.running.enter(cancel, long)
	if !ok {
		return explain(ctx, errDraining, false)
	}
	defer leave()
	if long {
		endRecheck := s.recheck(ctx, cancel, x.credential, x.grant)
		defer endRecheck()
	}
	var err error
	if t.stream, err = s.open(ctx, cancel, x.grant.agentID); err != nil {
		return explain(ctx, err, false)
	}
	if err := t.stream.SendMsg(t.head(target)); err != nil && !errors.Is(err, io.EOF) { // io.EOF: receiving says why
		return explain(ctx, err, true)
	}
	endBody := t.send()
	defer endBody()
	head, data, err := receive(t.stream)
	if err == nil {
		err = t.check(head)
	}
	if err != nil {
		return explain(ctx, err, true)
	}
	if head.GetStatus() == http.StatusSwitchingProtocols {
		return t.switchProtocols(ctx, head, data)
	}
	if t.upgrade != "" {
		_ = t.stream.CloseSend() // receiving says what is wrong
	}
	return whyEnded(r.Context(), ctx, t.answer(ctx, head, data))
}

// isLong says whether a request lasts until its client has had enough.
func isLong(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	query := r.URL.Query()
	return isTrue(query["watch"]) || isTrue(query["follow"]) || strings.Contains(r.URL.Path, "/watch/")
}

// isTrue reads a parameter as the API server does.
func isTrue(values []string) bool {
	return len(values) > 0 && values[0] != "false" && values[0] != "0"
}

// open begins an RPC with an agent, for which it waits if there is hope.
func (s *Server) open(ctx context.Context, cancel context.CancelCauseFunc, agentID int64) (grpc.ClientStream, error) {
	wait, why := s.cfg.AgentWait, errNoAgent
	switch standing := s.presence.Of(ctx, agentID); {
	case standing == Absent, standing == Expected && s.cfg.ReconnectWait <= 0:
		return nil, notConnected(agentID, "")
	case standing == Expected:
		wait = s.cfg.ReconnectWait
		why = notConnected(agentID, fmt.Sprintf(", and has not come back within %s", wait))
	}
	patience := s.cfg.Clock.AfterFunc(wait, func() { cancel(why) })
	defer patience.Stop()
	codec := grpc.ForceCodecV2(grpctool.RawCodec())
	return s.agents.Conn(agentID).NewStream(ctx, &doDesc, agentrpc.KubernetesApi_Do_FullMethodName, codec) //nolint:wrapcheck // explain says it for people
}

func notConnected(agentID int64, more string) error {
	return refuse(http.StatusServiceUnavailable, "agent %d is not connected%s: does agentk run in the cluster, and does it reach kas?", agentID, more)
}

// head is the first message of a request.
func (t *transfer) head(target string) proto.Message {
	head := &agentrpc.HttpRequestHead{
		Method: t.r.Method, Url: target, Headers: toAgent(t.r.Header),
		Upgrade: t.upgrade, Impersonation: t.as,
	}
	if t.r.ContentLength >= 0 {
		head.ContentLength = proto.Int64(t.r.ContentLength)
	}
	return &agentrpc.HttpRequest{Head: head}
}

// check makes sure that an answer begins as one.
func (t *transfer) check(head *agentrpc.HttpResponseHead) error {
	code := head.GetStatus()
	switch {
	case head == nil:
		return fmt.Errorf("%w: it begins without a head", errResponse)
	case code == http.StatusSwitchingProtocols && t.upgrade != "":
		return nil
	case code < 200 || code > 599:
		return fmt.Errorf("%w: its status is %d", errResponse, code)
	default:
		return nil
	}
}

// answer writes an answer as it comes. An error means that it broke off.
func (t *transfer) answer(ctx context.Context, head *agentrpc.HttpResponseHead, data []byte) error {
	h := t.w.Header()
	t.server.fromAgent(h, head.GetHeaders())
	if t.x.access == bySession { // a cluster's page is none of kas's origin
		h.Set("Content-Security-Policy", "sandbox")
		h.Set("X-Content-Type-Options", "nosniff")
	}
	t.x.code = int(head.GetStatus())
	t.w.WriteHeader(t.x.code)
	if err := t.write(data); err != nil {
		return err
	}
	parts := make(chan []byte, 2)
	var g errgroup.Group
	g.Go(func() error {
		defer close(parts)
		return t.collect(ctx, parts)
	})
	if err := t.copy(parts); err != nil {
		t.cancel(errGone)
		_ = g.Wait() // it was ended
		return err
	}
	return g.Wait()
}

// collect receives parts of an answer until it is over.
func (t *transfer) collect(ctx context.Context, parts chan<- []byte) error {
	for {
		_, data, err := receive(t.stream)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the answer broke off: %w", err)
		}
		select {
		case parts <- data:
		case <-ctx.Done():
			return context.Cause(ctx) //nolint:wrapcheck // it is ours
		}
	}
}

// copy writes parts of an answer, and has them sent whenever no other is at hand.
func (t *transfer) copy(parts <-chan []byte) error {
	for {
		var data []byte
		var more bool
		select {
		case data, more = <-parts:
		default:
			if err := t.control.Flush(); err != nil {
				return fmt.Errorf("send to the client: %w", err)
			}
			data, more = <-parts
		}
		if !more {
			return nil
		}
		if err := t.write(data); err != nil {
			return err
		}
	}
}

// write writes a part of an answer, which nobody has but t.
func (t *transfer) write(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	t.server.metrics.from.Add(float64(len(data)))
	if _, err := t.w.Write(data); err != nil { // HTTP/2 may still have it in hand
		return fmt.Errorf("send to the client: %w", err)
	}
	tunnelwire.Recycle(data)
	return nil
}
