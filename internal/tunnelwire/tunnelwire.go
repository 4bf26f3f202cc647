// Package tunnelwire is what both ends of the reverse tunnel must agree on beyond the
// messages of agentrpc.ReverseTunnel: how large they may be, how a large message is cut
// and joined, which metadata crosses, and how a gRPC status does.
//
// In go messages, metadata and statuses as gRPC has them, out come the tunnel's, and
// back. What comes from the other end is never trusted: joining and decoding return
// errors, and what they keep is bounded by MaxMessage. Nothing here starts a goroutine.
package tunnelwire

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
)

const (
	// MaxMessage is the largest message of an RPC, in bytes: as gRPC's own default.
	MaxMessage = 4 << 20
	// FrameSize is how much of a message one TunnelRequest or TunnelResponse carries at
	// most, in bytes: what goes over the same connection has its turn in between.
	FrameSize = 64 << 10
	// maxKeys and maxValue bound metadata: so many keys, so many bytes each value.
	maxKeys, maxValue = 32, 4 << 10
	// maxText is where the message of a status is cut, in bytes.
	maxText = 16 << 10
)

var (
	// ErrTooLarge is wrapped when a message is larger than MaxMessage.
	ErrTooLarge = fmt.Errorf("a message is larger than %d bytes", MaxMessage)
	// errCode marks a status code that gRPC does not know.
	errCode = errors.New("not a gRPC status code")
)

// Cut cuts a message into parts for the tunnel. They refer to data. It wraps ErrTooLarge.
func Cut(data []byte) ([]*agentrpc.TunnelMessage, error) {
	if len(data) > MaxMessage {
		return nil, fmt.Errorf("%w: %d", ErrTooLarge, len(data))
	}
	parts := make([]*agentrpc.TunnelMessage, 0, len(data)/FrameSize+1)
	for len(data) > FrameSize {
		parts = append(parts, &agentrpc.TunnelMessage{Data: data[:FrameSize:FrameSize], More: true})
		data = data[FrameSize:]
	}
	return append(parts, &agentrpc.TunnelMessage{Data: data}), nil
}

// Joiner joins the parts of one direction of an RPC. The zero Joiner is ready.
type Joiner struct {
	begun []byte
	open  bool
}

// Join takes the next part. It returns a message once it is whole, or an error that
// wraps ErrTooLarge.
func (j *Joiner) Join(part *agentrpc.TunnelMessage) (message []byte, whole bool, err error) {
	if len(j.begun)+len(part.GetData()) > MaxMessage {
		return nil, false, fmt.Errorf("%w: %d and going on", ErrTooLarge, len(j.begun)+len(part.GetData()))
	}
	if !j.open && !part.GetMore() {
		return part.GetData(), true, nil
	}
	j.grow(len(part.GetData()))
	j.begun = append(j.begun, part.GetData()...)
	j.open = part.GetMore()
	if j.open {
		return nil, false, nil
	}
	message = j.begun
	j.begun = nil
	return message, true, nil
}

// grow makes room for n more bytes, by doubling: append would copy a large message five
// times over.
func (j *Joiner) grow(n int) {
	if need := len(j.begun) + n; need > cap(j.begun) {
		j.begun = slices.Grow(j.begun, min(max(2*cap(j.begun), need, 2*FrameSize), MaxMessage)-len(j.begun))
	}
}

// Open says that a message has begun that is not whole.
func (j *Joiner) Open() bool { return j.open }

// crossing are the keys of metadata that cross, in both directions: who asks is kas's to
// know, and credentials never cross.
var crossing = []string{keyTraceparent, keyTracestate, "x-request-id"}

// crossingPrefix marks further keys that cross: kas's and agentk's own.
const crossingPrefix = "kas-"

// Crosses says whether metadata of this key may cross the tunnel. Keys are in lower case.
func Crosses(key string) bool {
	return slices.Contains(crossing, key) || strings.HasPrefix(key, crossingPrefix)
}

// FromMD returns what of md may cross.
func FromMD(md metadata.MD) []*agentrpc.TunnelMetadata {
	var out []*agentrpc.TunnelMetadata
	for key, values := range md {
		key = strings.ToLower(key)
		if !Crosses(key) || len(out) == maxKeys {
			continue
		}
		entry := &agentrpc.TunnelMetadata{Key: key}
		for _, v := range values {
			if valueCrosses(key, v) {
				entry.Values = append(entry.Values, []byte(v))
			}
		}
		out = append(out, entry)
	}
	return out
}

// ToMD returns what came as metadata; what must not cross is left out here as well.
func ToMD(entries []*agentrpc.TunnelMetadata) metadata.MD {
	if len(entries) == 0 {
		return nil
	}
	md := metadata.MD{}
	for _, entry := range entries[:min(len(entries), maxKeys)] {
		key := strings.ToLower(entry.GetKey())
		if !Crosses(key) {
			continue
		}
		for _, v := range entry.GetValues() {
			if len(v) <= maxValue && valueCrosses(key, string(v)) {
				md[key] = append(md[key], string(v))
			}
		}
	}
	return md
}

// FromError returns the trailers that say how an RPC ended; nil: well.
func FromError(err error, md metadata.MD) *agentrpc.TunnelTrailers {
	out := &agentrpc.TunnelTrailers{Metadata: FromMD(md)}
	if err == nil {
		return out
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	out.Code, out.Message = uint32(s.Code()), clip(s.Message())
	if len(s.Proto().GetDetails()) > 0 {
		if details, err := proto.Marshal(s.Proto()); err == nil && len(details) <= maxText {
			out.Details = details
		}
	}
	return out
}

// ToError is how an RPC ended, as its trailers say it: nil or an error with a gRPC status.
func ToError(trailers *agentrpc.TunnelTrailers) error {
	if len(trailers.GetDetails()) > 0 && len(trailers.GetDetails()) <= maxText {
		s := &spb.Status{}
		if proto.Unmarshal(trailers.GetDetails(), s) == nil && s.GetCode() == int32(trailers.GetCode()) {
			return status.ErrorProto(s) //nolint:wrapcheck // it is the other end's
		}
	}
	code := codes.Code(trailers.GetCode())
	if code > codes.Unauthenticated {
		return status.Errorf(codes.Unknown, "%v: %d: %s", errCode, trailers.GetCode(), clip(trailers.GetMessage()))
	}
	return status.Error(code, clip(trailers.GetMessage()))
}

func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
