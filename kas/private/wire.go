package private

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/tunnelwire"
)

const (
	// keyAgent and keyShape are metadata of requests.
	keyAgent = "kas-agent-id"
	keyShape = "kas-rpc-shape"
	// keyNotBegun is in trailers. Its like does not cross the tunnel.
	keyNotBegun = "not-begun"

	// maxHeaders of a call or answer, in bytes: metadata, and a status with its details.
	maxHeaders = 128 << 10
	// maxMetadata is how much metadata is passed on, in bytes.
	maxMetadata = 32 << 10
	// maxMessage is the largest message, in bytes, and what a registered service may need.
	maxMessage = 2 * tunnelwire.MaxMessage
	// window is how much of an RPC may be on its way, in bytes.
	window = 256 << 10
)

// shape of an RPC.
type shape string

const (
	unary shape = "unary"
	// oneRequest has one request and any number of answers.
	oneRequest shape = "one-request"
	// streaming is any other.
	streaming shape = "streaming"
)

func shapeOf(desc *grpc.StreamDesc) shape {
	switch {
	case desc.ClientStreams:
		return streaming
	case desc.ServerStreams:
		return oneRequest
	default:
		return unary
	}
}

// descOf is how an RPC looks here, where its answer has a message more.
func descOf(s shape) *grpc.StreamDesc {
	return &grpc.StreamDesc{ClientStreams: s == streaming, ServerStreams: s != unary}
}

// about returns the metadata of an RPC of an agent.
func about(ctx context.Context, agentID int64, s shape) metadata.MD {
	md, _ := metadata.FromOutgoingContext(ctx)
	md = crossing(md)
	md.Set(keyAgent, strconv.FormatInt(agentID, 10))
	md.Set(keyShape, string(s))
	return md
}

// agentOf returns which agent an RPC is for.
func agentOf(md metadata.MD) (agentID int64, s shape, err error) {
	ids, shapes := md.Get(keyAgent), md.Get(keyShape)
	if len(ids) != 1 || len(shapes) != 1 {
		return 0, "", status.Error(codes.Unimplemented, "kas does not have this method, and "+keyAgent+" does not say which agent has")
	}
	agentID, err = strconv.ParseInt(ids[0], 10, 64)
	if err != nil || agentID <= 0 {
		return 0, "", status.Errorf(codes.InvalidArgument, "%s: %q is not the number of an agent", keyAgent, ids[0])
	}
	switch s = shape(shapes[0]); s {
	case unary, oneRequest, streaming:
		return agentID, s, nil
	default:
		return 0, "", status.Errorf(codes.InvalidArgument, "%s: %q is no shape", keyShape, shapes[0])
	}
}

// IsUnary tells whether a call of the private API, which has this context, is a unary RPC of
// an agent: it ends soon by itself.
func IsUnary(ctx context.Context) bool {
	shapes := metadata.ValueFromIncomingContext(ctx, keyShape)
	return len(shapes) == 1 && shape(shapes[0]) == unary
}

// crossing returns what of metadata goes on.
func crossing(md metadata.MD) metadata.MD {
	crosses := tunnelwire.ToMD(tunnelwire.FromMD(md))
	if crosses == nil {
		return metadata.MD{}
	}
	delete(crosses, keyAgent)
	delete(crosses, keyShape)
	size := 0
	for key, values := range crosses {
		for _, v := range values {
			size += len(key) + len(v)
		}
		if size > maxMetadata {
			return metadata.MD{} // a part might mislead
		}
	}
	return crosses
}

// notBegunError is the status of an RPC that has not begun.
type notBegunError struct{ error }

// NotBegun says that the RPC may be tried elsewhere.
func (notBegunError) NotBegun() bool { return true }

// GRPCStatus is what status.FromError finds.
func (e notBegunError) GRPCStatus() *status.Status { return status.Convert(e.error) }

// Unwrap returns the status.
func (e notBegunError) Unwrap() error { return e.error }

// notBegun says whether an error is that of an RPC that has not begun.
func notBegun(err error) bool {
	var says interface{ NotBegun() bool }
	return errors.As(err, &says) && says.NotBegun()
}
