package tunnel

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// maxStale is how many frames of ended RPCs are dropped while one RPC is going on: an agent
// that heeds the protocol sends none after an RPC's trailers.
const maxStale = 16

// The rules that an agent can break.
var (
	errHello   = errors.New("hello came again")
	errNoRPC   = errors.New("headers, messages or trailers of no RPC")
	errAhead   = errors.New("a frame of an RPC that was not begun")
	errStale   = errors.New("frames of RPCs that have ended keep coming")
	errHeaders = errors.New("headers came twice, or after a message")
	errCut     = errors.New("the RPC ended well in the middle of a message")
)

// reception checks what an agent sends while one RPC is going on, and joins messages. It
// does no I/O.
type reception struct {
	rpc    uint64
	begun  bool // headers or a message came
	stale  int
	joiner tunnelwire.Joiner
}

// arrival is what a frame brings.
type arrival struct {
	// opens says that these are the first headers or message: header is all that comes.
	opens  bool
	header metadata.MD
	// messages that are whole now.
	messages [][]byte
	// trailers, if the RPC has ended.
	trailers *agentrpc.TunnelTrailers
}

// take takes the next frame. An error says which rule it breaks.
func (r *reception) take(f *agentrpc.TunnelResponse) (got arrival, err error) {
	if f.GetHello() != nil {
		return got, errHello
	}
	about := f.GetHeaders() != nil || len(f.GetMessages()) > 0 || f.GetTrailers() != nil
	switch {
	case f.GetRpc() == 0 && about:
		return got, errNoRPC
	case f.GetRpc() > r.rpc:
		return got, fmt.Errorf("%w: %d, and the last was %d", errAhead, f.GetRpc(), r.rpc)
	case f.GetRpc() < r.rpc:
		if r.stale++; r.stale > maxStale {
			return got, errStale
		}
		return got, nil
	}
	if h := f.GetHeaders(); h != nil {
		if r.begun {
			return got, errHeaders
		}
		r.begun, got.opens, got.header = true, true, tunnelwire.ToMD(h.GetMetadata())
	}
	for _, part := range f.GetMessages() {
		got.opens = got.opens || !r.begun
		r.begun = true
		message, whole, err := r.joiner.Join(part)
		if err != nil {
			return got, fmt.Errorf("join messages: %w", err)
		}
		if whole {
			got.messages = append(got.messages, message)
		}
	}
	got.trailers = f.GetTrailers()
	if got.trailers != nil && codes.Code(got.trailers.GetCode()) == codes.OK && r.joiner.Open() {
		return got, errCut
	}
	return got, nil
}
