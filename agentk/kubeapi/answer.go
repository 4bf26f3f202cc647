package kubeapi

import (
	"errors"
	"io"
	"net/http"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

const (
	// headroom of a buffer is for what an encoded HttpResponse has before its data.
	headroom = 8
	// answerSize is the largest buffer: its message fits into one frame of the tunnel, so
	// that nobody need join it.
	answerSize = tunnelwire.FrameSize
)

// sizes of buffers: an answer that waits, as a watch does, holds a small one.
var sizes = [...]int{4 << 10, 16 << 10, answerSize}

// buffers of each size.
var buffers = [len(sizes)]sync.Pool{newBuffers(0), newBuffers(1), newBuffers(2)}

func newBuffers(size int) sync.Pool {
	return sync.Pool{New: func() any { b := make([]byte, sizes[size]); return &b }}
}

func takeBuffer(size int) *[]byte { return buffers[size].Get().(*[]byte) } //nolint:forcetypeassert // there is nothing else in it

// sendHead sends the head of an answer.
func (e *exchange) sendHead(response *http.Response) error {
	upgrade := ""
	if response.StatusCode == http.StatusSwitchingProtocols {
		upgrade = response.Header.Get("Upgrade")
	}
	head := &agentrpc.HttpResponseHead{
		Status: int32(response.StatusCode), Headers: responseHeader(response.Header, upgrade),
	}
	e.answered = true
	e.server.metrics.answered(e.method, response.StatusCode)
	return e.stream.SendMsg(&agentrpc.HttpResponse{Head: head}) //nolint:wrapcheck // it is the RPC's status
}

// sendBody sends what body has as it comes, until its end.
func (e *exchange) sendBody(body io.Reader) error {
	size := 0
	buffer := takeBuffer(size)
	defer func() { buffers[size].Put(buffer) }()
	for {
		n, err := body.Read((*buffer)[headroom:])
		if n > 0 {
			if err := e.sendData(*buffer, n); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return status.Errorf(codes.Unavailable, "the API server broke off its answer: %v", err)
		}
		if next := nextSize(size, n); next != size {
			buffers[size].Put(buffer)
			size = next
			buffer = takeBuffer(size)
		}
	}
}

// nextSize is which buffer to read with after n bytes have come.
func nextSize(size, n int) int {
	switch {
	case size < len(sizes)-1 && n == sizes[size]-headroom:
		return size + 1
	case size > 0 && n <= sizes[size-1]-headroom:
		return size - 1
	default:
		return size
	}
}

// sendData sends n bytes that stand behind the headroom of a buffer.
func (e *exchange) sendData(buffer []byte, n int) error {
	var before [headroom]byte
	prefix := protowire.AppendTag(before[:0], dataNumber, protowire.BytesType)
	prefix = protowire.AppendVarint(prefix, uint64(n))
	begin := headroom - len(prefix)
	copy(buffer[begin:], prefix)
	e.server.metrics.received(n)
	return e.stream.SendMsg(&grpctool.Raw{Data: buffer[begin : headroom+n]}) //nolint:wrapcheck // it is the RPC's status
}
