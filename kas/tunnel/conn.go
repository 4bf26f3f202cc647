package tunnel

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// conn is an agent.
type conn struct {
	server  *Server
	agentID int64
	// replicas, unless nil, are where else it may be; here: it is wanted here alone.
	replicas Replicas
	here     bool
}

// Invoke implements grpc.ClientConnInterface.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	o, err := newOptions(opts)
	if err != nil {
		return err
	}
	header, trailer, err := c.invoke(ctx, method, args, reply, &o)
	o.fill(header, trailer)
	o.finished(err)
	c.server.metrics.ended(method, err)
	return err
}

func (c *conn) invoke(ctx context.Context, method string, args, reply any, o *options) (header, trailer metadata.MD, err error) {
	service, err := serviceOf(method)
	if err != nil {
		return nil, nil, err
	}
	message, err := encode(args, o.maxSend)
	if err != nil {
		return nil, nil, err
	}
	var r route
	defer r.end()
	for {
		to, err := c.take(ctx, service, &r)
		if err != nil {
			return nil, nil, err
		}
		if to.url != "" {
			header, trailer, err := c.invokeFar(ctx, to.url, method, message, reply, o)
			if c.goesOn(&r, to.url, err) {
				continue
			}
			return header, trailer, err
		}
		st := to.stream
		if !c.server.hold(st) {
			continue // it has just ended
		}
		o.lent(st)
		rpc := newUnary()
		first := newStart(ctx, st, method)
		rest := first.add(message, true)
		err = st.unary(ctx, rpc, &first.frame, rest)
		if errors.Is(err, errStaleStream) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		c.server.metrics.sent(len(message))
		return rpc.header, rpc.final.trailer, answer(rpc.final, reply, o.maxRecv)
	}
}

// unary does a unary RPC on a stream that is held, and returns when it has ended or ctx has:
// then with a status. errStaleStream: it has not begun.
func (st *stream) unary(ctx context.Context, c *call, first *agentrpc.TunnelRequest, rest []*agentrpc.TunnelRequest) error {
	// The context may end while the agent does not read.
	unwatch := context.AfterFunc(ctx, func() { st.cancel(c) })
	if err := st.start(c, first); err != nil {
		unwatch()
		st.server.open.Done()
		if errors.Is(err, errNotBegun) {
			return status.FromContextError(ctx.Err()).Err()
		}
		return err
	}
	// It goes on without a caller that leaves.
	if len(rest) > 0 { // sending them may take until the agent reads
		st.server.open.Add(1)
		go func() {
			defer st.server.open.Done()
			_ = st.sendAll(c, rest) // receiving says what is wrong
		}()
	}
	go func() { // which begins to wait while the agent works
		defer st.server.open.Done()
		st.receive(c)
	}()
	select {
	case <-c.done:
		if unwatch() || c.final.err == nil {
			return nil
		}
		// The caller has left, which is why the RPC has ended as it has.
	case <-ctx.Done():
		if unwatch() { // it has not been told yet
			go st.cancel(c)
		}
	}
	return status.FromContextError(ctx.Err()).Err()
}

// answer decodes the answer of a unary RPC.
func answer(final result, reply any, limit int) error {
	switch {
	case final.err != nil:
		return final.err
	case len(final.messages) != 1:
		return status.Error(codes.Internal, "the agent answered a unary RPC with no message, or with several")
	default:
		return decode(final.messages[0], reply, limit)
	}
}

// serviceOf returns the service of a method's full name, "/package.Service/Method".
func serviceOf(method string) (string, error) {
	service, name, found := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if !found || service == "" || name == "" || method[0] != '/' {
		return "", status.Errorf(codes.Unimplemented, "%q is not the name of a method", method)
	}
	return service, nil
}

// encode returns an encoded message, which is not nil.
func encode(message any, limit int) ([]byte, error) {
	data, err := grpctool.Marshal(message)
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Internal, "%v", err)
	case len(data) > limit:
		return nil, status.Errorf(codes.ResourceExhausted, "the message has %d bytes, more than %d", len(data), limit)
	case data == nil:
		return []byte{}, nil
	default:
		return data, nil
	}
}

func decode(data []byte, message any, limit int) error {
	if len(data) > limit {
		return status.Errorf(codes.ResourceExhausted, "the answer has %d bytes, more than %d", len(data), limit)
	}
	if err := grpctool.Unmarshal(data, message); err != nil {
		return status.Errorf(codes.Internal, "%v", err)
	}
	return nil
}
