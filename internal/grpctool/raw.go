package grpctool

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that RawCodec stands on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Raw is an encoded message, which is handed on without being looked at. A server or
// call that has RawCodec as its codec takes and gives a *Raw in the place of any message.
type Raw struct {
	Data []byte
}

// Marshal encodes a message, or takes a *Raw for what it is. An empty message is not nil.
func Marshal(message any) ([]byte, error) {
	if raw, ok := message.(*Raw); ok {
		if raw.Data == nil {
			return []byte{}, nil
		}
		return raw.Data, nil
	}
	if m, ok := message.(proto.Message); ok { // the codec's way has a copy more
		data, err := proto.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", message, err)
		}
		return data, nil
	}
	data, err := encoding.GetCodecV2(protoCodec).Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", message, err)
	}
	defer data.Free()
	return data.Materialize(), nil
}

// Unmarshal decodes a message. A *Raw keeps data itself, which must not change then.
func Unmarshal(data []byte, message any) error {
	if raw, ok := message.(*Raw); ok {
		raw.Data = data
		return nil
	}
	if m, ok := message.(proto.Message); ok {
		if err := proto.Unmarshal(data, m); err != nil {
			return fmt.Errorf("decode %T: %w", message, err)
		}
		return nil
	}
	if err := encoding.GetCodecV2(protoCodec).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, message); err != nil {
		return fmt.Errorf("decode %T: %w", message, err)
	}
	return nil
}

const protoCodec = "proto"

// RawCodec is protobuf's codec and takes a *Raw as well.
func RawCodec() encoding.CodecV2 { return rawCodec{} }

type rawCodec struct{}

// Name is that of protobuf's codec: on the wire there is no difference.
func (rawCodec) Name() string { return protoCodec }

// Marshal implements encoding.CodecV2.
func (rawCodec) Marshal(message any) (mem.BufferSlice, error) {
	if raw, ok := message.(*Raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw.Data)}, nil
	}
	return encoding.GetCodecV2(protoCodec).Marshal(message) //nolint:wrapcheck // gRPC says what it was about
}

// Unmarshal implements encoding.CodecV2.
func (rawCodec) Unmarshal(data mem.BufferSlice, message any) error {
	if raw, ok := message.(*Raw); ok {
		raw.Data = data.Materialize()
		return nil
	}
	return encoding.GetCodecV2(protoCodec).Unmarshal(data, message) //nolint:wrapcheck // gRPC says what it was about
}
