package tunnelwire

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// frames that are as different as can be.
var frames = []proto.Message{
	&agentrpc.TunnelResponse{},
	&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{Services: []string{"a"}}},
	&agentrpc.TunnelResponse{Rpc: 7, Messages: []*agentrpc.TunnelMessage{{Data: []byte("one")}, {}, {Data: []byte("two"), More: true}}},
	&agentrpc.TunnelResponse{
		Rpc: 7, Headers: &agentrpc.TunnelHeaders{Metadata: []*agentrpc.TunnelMetadata{{Key: "k", Values: [][]byte{[]byte("v")}}}},
		Messages: []*agentrpc.TunnelMessage{{Data: bytes.Repeat([]byte("x"), FrameSize)}}, Trailers: &agentrpc.TunnelTrailers{Code: 5, Message: "m"},
	},
	&agentrpc.TunnelRequest{},
	&agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: "/a/b"}, Messages: []*agentrpc.TunnelMessage{{Data: []byte("one")}}, HalfClose: true, IdleStreams: proto.Uint32(3)},
	&agentrpc.TunnelRequest{Rpc: 1, Cancel: true},
}

func TestCodec_DecodesAsProtobufDoes(t *testing.T) {
	for _, want := range frames {
		encoded, err := Codec().Marshal(want)
		require.NoError(t, err)
		got := want.ProtoReflect().New().Interface()
		if r, ok := got.(*agentrpc.TunnelResponse); ok { // it may have been used before
			r.Rpc, r.Messages = 99, []*agentrpc.TunnelMessage{{More: true}}
		}
		half := mem.SliceBuffer(encoded.Materialize())
		split := mem.BufferSlice{half[:len(half)/2], half[len(half)/2:]}
		require.NoError(t, Codec().Unmarshal(split, got))
		require.True(t, proto.Equal(want, got), "%v is decoded as %v", want, got)
		clear(half)
		require.True(t, proto.Equal(want, got), "it refers to a buffer that is not its own")
	}
	other := &agentrpc.TunnelHello{}
	encoded, err := proto.Marshal(&agentrpc.TunnelHello{Services: []string{"a"}})
	require.NoError(t, err)
	require.NoError(t, Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(encoded)}, other))
	require.Equal(t, []string{"a"}, other.GetServices())
}

func TestRecycle_WhatIsUsedAgainIsNobodysAnyMore(t *testing.T) {
	frame := func(fill byte, sizes ...int) *agentrpc.TunnelResponse {
		want := &agentrpc.TunnelResponse{Rpc: 1, Trailers: &agentrpc.TunnelTrailers{Message: "after the messages"}}
		for i, n := range sizes {
			want.Messages = append(want.Messages, &agentrpc.TunnelMessage{Data: bytes.Repeat([]byte{fill + byte(i)}, n)})
		}
		return want
	}
	var kept []*agentrpc.TunnelResponse
	for round := range 400 {
		want := frame(byte(round), []int{FrameSize, 16 << 10, leastSpare, 20 << 10, 33 << 10}[round%5])
		if round%3 == 0 {
			want = frame(byte(round), 5, FrameSize-100, 7)
		}
		encoded, err := proto.Marshal(want)
		require.NoError(t, err)
		got := &agentrpc.TunnelResponse{}
		require.NoError(t, Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(encoded)}, got))
		require.True(t, proto.Equal(want, got))
		if kept = append(kept, got, want); len(kept) > 8 {
			require.True(t, proto.Equal(kept[1], kept[0]), "somebody else wrote into it")
			for _, m := range kept[0].GetMessages() {
				Recycle(m.GetData())
			}
			kept = kept[2:]
		}
	}
	Recycle(nil)
	Recycle(make([]byte, 10))
}

func TestTakeSpare_HoldsAFrame(t *testing.T) {
	for _, size := range []int{0, leastSpare - 1, leastSpare, 16<<10 + spareLoss, 16<<10 + spareLoss + 1, FrameSize + spareLoss, FrameSize + spareLoss + 1, MaxMessage} {
		spare := takeSpare(size)
		require.Equal(t, size >= leastSpare && size <= FrameSize+spareLoss, spare != nil, size)
		require.True(t, spare == nil || cap(spare) >= size, size)
		Recycle(spare)
	}
}

func FuzzCodec(f *testing.F) {
	for _, frame := range frames {
		encoded, err := proto.Marshal(frame)
		require.NoError(f, err)
		f.Add(encoded[:min(len(encoded), 200)])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, empty := range []proto.Message{&agentrpc.TunnelResponse{}, &agentrpc.TunnelRequest{}} {
			want, got := proto.Clone(empty), empty
			wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, want)
			gotErr := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(bytes.Clone(data))}, got)
			if wantErr != nil {
				continue // it may be that more is accepted here
			}
			if gotErr != nil {
				t.Fatalf("protobuf accepts what is refused here: %v", gotErr)
			}
			if forget(got); !proto.Equal(want, got) {
				t.Fatalf("protobuf: %v, here: %v", want, got)
			}
		}
	})
}

// forget drops fields that are not known.
func forget(m proto.Message) {
	encoded, err := proto.Marshal(m)
	if err == nil {
		_ = proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(encoded, m)
	}
}
