package kubeapi

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// FuzzDataOf decodes any message that protobuf decodes, as protobuf does.
func FuzzDataOf(f *testing.F) {
	for _, m := range []*agentrpc.HttpRequest{
		{}, {Data: []byte("abc")}, {Head: &agentrpc.HttpRequestHead{Method: "GET"}}, {Head: &agentrpc.HttpRequestHead{}, Data: bytes.Repeat([]byte("x"), 200)},
	} {
		encoded, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(encoded)
	}
	f.Add([]byte("\x12\x01a\x12\x01b"))
	f.Fuzz(func(t *testing.T, message []byte) {
		data, err := dataOf(message)
		var want agentrpc.HttpRequest
		if proto.Unmarshal(message, &want) != nil {
			return // it may be that more is accepted here
		}
		switch {
		case want.Head != nil:
			require.ErrorContains(t, err, "a head came again")
		case err == nil:
			require.True(t, bytes.Equal(want.GetData(), data), "protobuf: %q, here: %q", want.GetData(), data)
		default: // number 1 with something else
			require.ErrorContains(t, err, "a head came again")
			require.NotEmpty(t, want.ProtoReflect().GetUnknown())
		}
	})
}
