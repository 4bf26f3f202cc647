package proxy

import (
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// Messages that have data alone are most of all, and are encoded and decoded here: protobuf's
// own way copies the data once more.

// Numbers of fields, those of both messages.
const (
	headField protowire.Number = 1
	dataField protowire.Number = 2
)

// maxPart is how much data goes into one message: one frame of the tunnel holds it, and what
// is around it.
const maxPart = 64<<10 - 16

var doDesc = grpc.StreamDesc{StreamName: "Do", ClientStreams: true, ServerStreams: true}

// part is an encoded agentrpc.HttpRequest without head. It refers not to data.
func part(data []byte) *grpctool.Raw {
	message := make([]byte, 0, len(data)+8)
	message = protowire.AppendTag(message, dataField, protowire.BytesType)
	return &grpctool.Raw{Data: protowire.AppendBytes(message, data)}
}

var errResponse = errors.New("the agent's answer is no HttpResponse")

// receive receives a part of an answer, and its head if it has one. io.EOF: it is over. Data
// is the caller's, who may recycle it.
func receive(stream grpc.ClientStream) (head *agentrpc.HttpResponseHead, data []byte, err error) {
	raw := &grpctool.Raw{}
	if err := stream.RecvMsg(raw); err != nil {
		return nil, nil, err //nolint:wrapcheck // it is the RPC's status, or io.EOF
	}
	return parse(raw.Data)
}

// parse decodes an agentrpc.HttpResponse. Data refers to encoded.
func parse(encoded []byte) (head *agentrpc.HttpResponseHead, data []byte, err error) {
	for len(encoded) > 0 {
		number, kind, n := protowire.ConsumeTag(encoded)
		if n < 0 || number > protowire.MaxValidNumber {
			return nil, nil, errResponse
		}
		encoded = encoded[n:]
		if n = protowire.ConsumeFieldValue(number, kind, encoded); n < 0 {
			return nil, nil, errResponse
		}
		switch {
		case kind == protowire.BytesType && number == dataField:
			data, _ = protowire.ConsumeBytes(encoded)
		case kind == protowire.BytesType && number == headField:
			if head == nil {
				head = &agentrpc.HttpResponseHead{}
			}
			value, _ := protowire.ConsumeBytes(encoded)
			if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(value, head); err != nil {
				return nil, nil, fmt.Errorf("%w: %w", errResponse, err)
			}
		}
		encoded = encoded[n:]
	}
	return head, data, nil
}
