package kasapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/railsrpc"
)

const (
	// CommandTimeout is how long an agent may take to do what it is told.
	CommandTimeout = 20 * time.Second
	// DiffTimeout is how long a comparison may take: the API server is asked about
	// every object that would change.
	DiffTimeout = 50 * time.Second
	// maxDiff is the largest comparison, in bytes, that is taken from kas.
	maxDiff = 64 << 20
)

// Sync has kas look at the repository, and the agent run the newest set again.
func (c *Client) Sync(ctx context.Context, req *railsrpc.SyncRequest) error {
	return command(ctx, c.sync.Sync, req)
}

// Suspend stops syncing until Resume.
func (c *Client) Suspend(ctx context.Context, req *railsrpc.SuspendRequest) error {
	return command(ctx, c.sync.Suspend, req)
}

// Resume ends a suspension.
func (c *Client) Resume(ctx context.Context, req *railsrpc.ResumeRequest) error {
	return command(ctx, c.sync.Resume, req)
}

// ApprovePrune lets the deletions of a commit go on.
func (c *Client) ApprovePrune(ctx context.Context, req *railsrpc.ApprovePruneRequest) error {
	return command(ctx, c.sync.ApprovePrune, req)
}

func command[Request, Response any](ctx context.Context, call func(context.Context, Request, ...grpc.CallOption) (Response, error), req Request) error {
	ctx, cancel := context.WithTimeout(ctx, CommandTimeout)
	defer cancel()
	var who peer.Peer
	_, err := call(ctx, req, grpc.Peer(&who))
	return toError(err, &who, CommandTimeout)
}

// Diff tells what a commit would do to a cluster: the answers of kas put together.
func (c *Client) Diff(ctx context.Context, req *railsrpc.DiffRequest) (*railsrpc.DiffResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, DiffTimeout)
	defer cancel()
	var who peer.Peer
	stream, err := c.sync.Diff(ctx, req, grpc.Peer(&who))
	if err != nil {
		return nil, toError(err, &who, DiffTimeout)
	}
	all := &railsrpc.DiffResponse{}
	for size := 0; ; {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, toError(err, &who, DiffTimeout)
		}
		if size += proto.Size(part); size > maxDiff {
			return nil, &Error{
				Code:    codes.ResourceExhausted,
				Message: fmt.Sprintf("the comparison is larger than %d MiB: compare in the cluster with kubectl diff", maxDiff>>20),
			}
		}
		proto.Merge(all, part)
	}
}
