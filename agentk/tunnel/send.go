package tunnel

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// frame is what a stream sends, with the pieces that nearly all have, made once: gRPC
// has encoded a message when Send returns.
type frame struct {
	response agentrpc.TunnelResponse
	message  agentrpc.TunnelMessage
	messages [1]*agentrpc.TunnelMessage
}

// begin makes it a frame about the RPC without anything else.
func (f *frame) begin(number uint64) {
	f.response.Rpc = number
	f.response.Headers, f.response.Messages, f.response.Trailers = nil, nil, nil
}

// add adds a part of a message: data, which another part follows or not.
func (f *frame) add(data []byte, more bool) {
	f.message.Data, f.message.More = data, more
	f.messages[0] = &f.message
	f.response.Messages = f.messages[:]
}

// release forgets what was sent.
func (f *frame) release() { f.message.Data = nil }

// encode returns the bytes of a message that may be sent.
func encode(message any) ([]byte, error) {
	data, err := grpctool.Marshal(message)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "answer: %v", err)
	}
	if len(data) > tunnelwire.MaxMessage {
		return nil, status.Errorf(codes.ResourceExhausted, "answer: %v: %d", tunnelwire.ErrTooLarge, len(data))
	}
	return data, nil
}

// SendMsg implements grpc.ServerStream. It returns when message may be used again, which
// is when HTTP/2 has let it go.
func (c *call) SendMsg(message any) error {
	data, err := encode(message)
	if err != nil {
		return err
	}
	c.stream.sending.Lock()
	defer c.stream.sending.Unlock()
	if c.finished {
		return status.Error(codes.Internal, "a message was sent after the handler had returned")
	}
	data, err = c.sendParts(data)
	if err != nil {
		return err
	}
	return c.sendPart(data, false)
}

// sendParts sends all of a message but its last part, which it returns.
func (c *call) sendParts(data []byte) ([]byte, error) {
	for len(data) > tunnelwire.FrameSize {
		if err := c.sendPart(data[:tunnelwire.FrameSize], true); err != nil {
			return nil, err
		}
		data = data[tunnelwire.FrameSize:]
	}
	return data, nil
}

// sendPart sends a part of a message, unless nobody wants it any more.
func (c *call) sendPart(data []byte, more bool) error {
	c.stream.server.pacer.wait(c.bounds, &c.volume, len(data))
	if err := c.bounds.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	out := &c.stream.out
	out.begin(c.number)
	c.addHeader(out)
	out.add(data, more)
	return c.send(out)
}

// sendHeader sends the headers, even if there are none.
func (c *call) sendHeader() error {
	out := &c.stream.out
	out.begin(c.number)
	c.addHeader(out)
	if out.response.Headers == nil {
		out.response.Headers = &agentrpc.TunnelHeaders{}
	}
	return c.send(out)
}

// addHeader adds the headers to the first frame of the RPC.
func (c *call) addHeader(out *frame) {
	if c.headerSent {
		return
	}
	c.headerSent = true
	if md := tunnelwire.FromMD(c.header); len(md) > 0 {
		out.response.Headers = &agentrpc.TunnelHeaders{Metadata: md}
	}
}

func (c *call) send(out *frame) error {
	defer out.release()
	c.stream.server.cfg.Metrics.toKas.Add(float64(len(out.message.GetData())))
	if err := c.stream.client.Send(&out.response); err != nil {
		// Why is known to who receives.
		return status.Error(codes.Unavailable, fmt.Sprintf("the stream to kas has ended: %v", err))
	}
	return nil
}

// finish ends the RPC: with the reply of a unary one, if there is one, and trailers that
// say how it went. The stream is idle then.
func (c *call) finish(reply any, err error) {
	defer c.cancel()
	var data []byte
	if err == nil && reply != nil {
		data, err = encode(reply)
	}
	if len(data) > tunnelwire.FrameSize { // it may take a while until kas has read it
		c.watch()
	}
	c.stream.sending.Lock()
	defer c.stream.sending.Unlock()
	if err == nil && reply != nil {
		data, err = c.sendParts(data)
	}
	c.finished = true
	out := &c.stream.out
	out.begin(c.number)
	c.addHeader(out)
	if err == nil && reply != nil {
		out.add(data, false)
	}
	out.response.Trailers = tunnelwire.FromError(err, c.trailer)
	c.stream.server.count(c.method, codes.Code(out.response.GetTrailers().GetCode()))
	c.endSpan(codes.Code(out.response.GetTrailers().GetCode()))
	c.stream.server.pacer.ended(&c.volume)
	c.stream.become(idle, nil) // before kas knows, so that the next RPC finds it so
	_ = c.send(out)            // a stream that has ended has nobody to tell
}
