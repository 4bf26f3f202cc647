package tunnelwire

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec stands on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// Codec is protobuf's codec. It decodes frames of the tunnel without copying what their
// messages carry, which is most of what either end has to do with a large transfer. What is
// decoded refers to a buffer that nobody else has.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

type codec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, message any) error {
	switch m := message.(type) {
	case *agentrpc.TunnelResponse:
		return decodeResponse(joined(data), m)
	case *agentrpc.TunnelRequest:
		return decodeRequest(joined(data), m)
	default:
		return c.CodecV2.Unmarshal(data, message) //nolint:wrapcheck // gRPC says what it was about
	}
}

// joined returns a copy of data that is in one piece. BufferSlice.Materialize would clear the
// memory first.
func joined(data mem.BufferSlice) []byte {
	n := data.Len()
	if buffer := takeSpare(n); buffer != nil {
		return buffer[:data.CopyTo(buffer[:n])]
	}
	var few [8][]byte
	parts := few[:0]
	for _, b := range data {
		parts = append(parts, b.ReadOnlyData())
	}
	return bytes.Join(parts, nil)
}

// Numbers of fields.
const (
	requestMessages  protowire.Number = 3
	responseMessages protowire.Number = 4
	messageData      protowire.Number = 1
	messageMore      protowire.Number = 2
)

func decodeResponse(data []byte, into *agentrpc.TunnelResponse) error {
	messages, rest, err := takeMessages(data, responseMessages)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(rest, into); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	into.Messages = messages
	return nil
}

func decodeRequest(data []byte, into *agentrpc.TunnelRequest) error {
	messages, rest, err := takeMessages(data, requestMessages)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(rest, into); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	into.Messages = messages
	return nil
}

// takeMessages takes the TunnelMessages out of an encoded frame, and returns what is left
// of it beside them.
func takeMessages(frame []byte, number protowire.Number) (messages []*agentrpc.TunnelMessage, rest []byte, err error) {
	for left := frame; len(left) > 0; {
		field, kind, n := protowire.ConsumeTag(left)
		if n < 0 {
			return nil, nil, broken(n)
		}
		size := protowire.ConsumeFieldValue(field, kind, left[n:])
		if size < 0 {
			return nil, nil, broken(size)
		}
		if field == number && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(left[n:])
			message, err := decodeMessage(value)
			if err != nil {
				return nil, nil, err
			}
			if n := len(messages); n > 0 { // only the last may be recycled
				before := messages[n-1]
				before.Data = before.Data[:len(before.Data):len(before.Data)]
			}
			messages = append(messages, message)
		} else {
			rest = append(rest, left[:n+size]...)
		}
		left = left[n+size:]
	}
	return messages, rest, nil
}

func decodeMessage(encoded []byte) (*agentrpc.TunnelMessage, error) {
	m := &agentrpc.TunnelMessage{}
	for len(encoded) > 0 {
		field, kind, n := protowire.ConsumeTag(encoded)
		if n < 0 {
			return nil, broken(n)
		}
		size := protowire.ConsumeFieldValue(field, kind, encoded[n:])
		if size < 0 {
			return nil, broken(size)
		}
		switch value := encoded[n:]; {
		case field == messageData && kind == protowire.BytesType:
			m.Data, _ = protowire.ConsumeBytes(value)
		case field == messageMore && kind == protowire.VarintType:
			more, _ := protowire.ConsumeVarint(value)
			m.More = protowire.DecodeBool(more)
		}
		encoded = encoded[n+size:]
	}
	return m, nil
}

var errFrame = errors.New("frame of the tunnel")

func broken(n int) error { return fmt.Errorf("%w: %w", errFrame, protowire.ParseError(n)) }
