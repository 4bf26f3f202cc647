package kasapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

const (
	// QueryTimeout is how long an agent may take to answer what is in its cluster: it
	// may have to read all objects of a resource first.
	QueryTimeout = 30 * time.Second
	// maxPart is the largest part of an answer, in bytes: it may be one large object.
	maxPart = 16 << 20
)

// errSilent is an agent that does not answer in time.
var errSilent = &Error{Code: codes.DeadlineExceeded, Message: fmt.Sprintf("no answer within %s", QueryTimeout)}

// ClusterGet returns one object of a cluster.
func (c *Client) ClusterGet(ctx context.Context, req *railsrpc.ClusterGetRequest) (*clusterstate.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	var who peer.Peer
	res, err := c.state.Get(ctx, req, grpc.Peer(&who), grpc.MaxCallRecvMsgSize(maxPart))
	return res, toQueryError(err, &who)
}

// ClusterList has each part of a list, in order, until each returns an error, which is
// returned as it is.
func (c *Client) ClusterList(ctx context.Context, req *railsrpc.ClusterListRequest, each func(*clusterstate.ListResponse) error) error {
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	return receive(ctx, c.state.List, req, each)
}

// ClusterWatch has each part of a watch as it comes. The first must come in time;
// then it ends only with an error, ctx's or that of each where those end it.
func (c *Client) ClusterWatch(ctx context.Context, req *railsrpc.ClusterWatchRequest, each func(*clusterstate.WatchResponse) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(QueryTimeout, func() { cancel(errSilent) })
	defer silence.Stop()
	err := receive(ctx, c.state.Watch, req, func(part *clusterstate.WatchResponse) error {
		silence.Stop()
		return each(part)
	})
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// ListFleet has the parts of many agents' lists. Each agent has one that ends it.
func (c *Client) ListFleet(ctx context.Context, req *railsrpc.ListFleetRequest, each func(*railsrpc.ListFleetResponse) error) error {
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	return receive(ctx, c.state.ListFleet, req, each)
}

func receive[Request, Part any](
	ctx context.Context, call func(context.Context, *Request, ...grpc.CallOption) (grpc.ServerStreamingClient[Part], error),
	req *Request, each func(*Part) error,
) error {
	ctx, cancel := context.WithCancel(ctx) // where each gives up
	defer cancel()
	var who peer.Peer
	stream, err := call(ctx, req, grpc.Peer(&who), grpc.MaxCallRecvMsgSize(maxPart))
	if err != nil {
		return toQueryError(err, &who)
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return toQueryError(err, &who)
		}
		if err := each(part); err != nil {
			return err
		}
	}
}

// toQueryError words what a question came to. What kas says of the agent is passed on
// as it is: unlike a command's, its PERMISSION_DENIED is the cluster's.
func toQueryError(err error, who *peer.Peer) error {
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return &Error{Code: codes.DeadlineExceeded, Message: fmt.Sprintf("no answer within %s", QueryTimeout), err: err}
	case codes.PermissionDenied:
		return &Error{Code: codes.PermissionDenied, Message: grpctool.Words(err), err: err}
	case codes.Unimplemented:
		if !strings.Contains(err.Error(), "railsrpc.ClusterState") { // kas knows the call, the agent does not
			return &Error{Code: codes.Unimplemented, Message: grpctool.Words(err), err: err}
		}
	}
	return toError(err, who, QueryTimeout)
}
