package tunnel

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// protoCodec is the name of the only encoding that crosses.
const protoCodec = "proto"

// options are the call options that mean something here.
type options struct {
	headers, trailers []*metadata.MD
	peers             []*peer.Peer
	onFinish          []func(error)
	maxSend, maxRecv  int
}

// newOptions reads call options. Those that would have no effect though the caller counts
// on one are refused.
func newOptions(given []grpc.CallOption) (options, error) {
	o := options{maxSend: tunnelwire.MaxMessage, maxRecv: tunnelwire.MaxMessage}
	for _, option := range given {
		switch v := option.(type) {
		case grpc.HeaderCallOption:
			o.headers = append(o.headers, v.HeaderAddr)
		case grpc.TrailerCallOption:
			o.trailers = append(o.trailers, v.TrailerAddr)
		case grpc.PeerCallOption:
			o.peers = append(o.peers, v.PeerAddr)
		case grpc.OnFinishCallOption:
			o.onFinish = append(o.onFinish, v.OnFinish)
		case grpc.MaxSendMsgSizeCallOption:
			o.maxSend = min(o.maxSend, v.MaxSendMsgSize)
		case grpc.MaxRecvMsgSizeCallOption:
			o.maxRecv = min(o.maxRecv, v.MaxRecvMsgSize)
		case grpc.FailFastCallOption: // a call always waits for its agent
		case grpc.StaticMethodCallOption, grpc.EmptyCallOption, grpc.MaxRetryRPCBufferSizeCallOption:
		case grpc.ForceCodecV2CallOption:
			if v.CodecV2 == nil || v.CodecV2.Name() != protoCodec {
				return o, unsupported(option)
			}
		case grpc.ContentSubtypeCallOption:
			if v.ContentSubtype != protoCodec {
				return o, unsupported(option)
			}
		default: // credentials, for one
			return o, unsupported(option)
		}
	}
	return o, nil
}

func unsupported(option grpc.CallOption) error {
	return status.Errorf(codes.Unimplemented, "%T means nothing in the tunnel", option)
}

// lent tells the caller on which stream its RPC is.
func (o *options) lent(st *stream) {
	for _, p := range o.peers {
		*p = st.peer
	}
}

// fill hands the caller what came beside the messages.
func (o *options) fill(header, trailer metadata.MD) {
	for _, md := range o.headers {
		*md = header
	}
	for _, md := range o.trailers {
		*md = trailer
	}
}

// finished tells the caller how its RPC ended.
func (o *options) finished(err error) {
	for _, f := range o.onFinish {
		f(err)
	}
}
