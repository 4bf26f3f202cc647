package tunnelwire

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
)

func TestCut_PartsJoinToTheSameMessage(t *testing.T) {
	for _, size := range []int{0, 1, FrameSize, FrameSize + 1, 3 * FrameSize, MaxMessage} {
		message := bytes.Repeat([]byte{7}, size)
		parts, err := Cut(message)
		require.NoError(t, err)
		var j Joiner
		for i, part := range parts {
			require.LessOrEqual(t, len(part.GetData()), FrameSize)
			joined, whole, err := j.Join(part)
			require.NoError(t, err)
			require.Equal(t, i == len(parts)-1, whole)
			require.Equal(t, !whole, j.Open())
			if whole {
				require.True(t, bytes.Equal(message, joined), size)
			}
		}
	}
	_, err := Cut(make([]byte, MaxMessage+1))
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestJoiner_BoundsWhatItKeeps(t *testing.T) {
	var j Joiner
	var err error
	for range MaxMessage/FrameSize + 1 {
		_, _, err = j.Join(&agentrpc.TunnelMessage{Data: make([]byte, FrameSize), More: true})
	}
	require.ErrorIs(t, err, ErrTooLarge)
	_, _, err = new(Joiner).Join(&agentrpc.TunnelMessage{Data: make([]byte, MaxMessage+1)})
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestMetadata_CredentialsNeverCross(t *testing.T) {
	sent := metadata.MD{
		"authorization": {"Bearer secret"}, "Authorization": {"Bearer secret"}, "private-token": {"secret"}, "cookie": {"secret"},
		"traceparent": {aTraceparent}, "Kas-Thing": {"a", "b"}, "kas-bytes-bin": {"\x00\xff"}, "kas-long": {strings.Repeat("x", maxValue+1)},
	}
	crossed := FromMD(sent)
	got := ToMD(crossed)
	require.Equal(t, metadata.MD{"traceparent": {aTraceparent}, "kas-thing": {"a", "b"}, "kas-bytes-bin": {"\x00\xff"}}, got)
	// Nor where the other end sends them all the same.
	require.Empty(t, ToMD([]*agentrpc.TunnelMetadata{{Key: "Authorization", Values: [][]byte{[]byte("secret")}}}))
}

const aTraceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestMetadata_OnlyW3CTraceContextCrosses(t *testing.T) {
	for key, rows := range map[string]map[string]bool{
		"traceparent": {
			aTraceparent:                  true,
			strings.ToUpper(aTraceparent): false,
			aTraceparent + "-more":        false,
			aTraceparent[:54] + "\n":      false,
			"01" + aTraceparent[2:]:       false,
			"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": false,
			"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false,
			"": false,
		},
		"tracestate": {
			"vendor=value,other@one=2":           true,
			"no member":                          false,
			"vendor=" + strings.Repeat("x", 512): false,
			"vendor=line\nkas-agent-id=7":        false,
		},
	} {
		for value, crosses := range rows {
			entries := []*agentrpc.TunnelMetadata{{Key: key, Values: [][]byte{[]byte(value)}}}
			if got := len(ToMD(entries).Get(key)) > 0; got != crosses {
				t.Errorf("%s %q comes: %t", key, value, got)
			}
			if got := len(ToMD(FromMD(metadata.Pairs(key, value))).Get(key)) > 0; got != crosses {
				t.Errorf("%s %q goes: %t", key, value, got)
			}
		}
	}
}

func TestStatus_CrossesWithItsDetails(t *testing.T) {
	detailed, err := status.New(codes.ResourceExhausted, "too many").WithDetails(&errdetails.RetryInfo{})
	require.NoError(t, err)
	for _, row := range []struct {
		err  error
		want *status.Status
	}{
		{nil, status.New(codes.OK, "")},
		{status.Error(codes.NotFound, "no such thing"), status.New(codes.NotFound, "no such thing")},
		{context.DeadlineExceeded, status.New(codes.DeadlineExceeded, context.DeadlineExceeded.Error())},
		{errors.New("something"), status.New(codes.Unknown, "something")},
		{detailed.Err(), detailed},
	} {
		got := status.Convert(ToError(FromError(row.err, nil)))
		require.True(t, proto.Equal(row.want.Proto(), got.Proto()) || row.err == nil && got.Code() == codes.OK, got)
	}
	strange := ToError(&agentrpc.TunnelTrailers{Code: 99, Message: "m\xff"})
	require.Equal(t, codes.Unknown, status.Code(strange))
	require.Contains(t, strange.Error(), "not a gRPC status code: 99: m\uFFFD")
	require.Equal(t, codes.NotFound, status.Code(ToError(&agentrpc.TunnelTrailers{Code: 5, Details: []byte("nonsense")})))
}

func FuzzToError(f *testing.F) {
	f.Add(uint32(5), "m", []byte{})
	f.Fuzz(func(t *testing.T, code uint32, message string, details []byte) {
		err := ToError(&agentrpc.TunnelTrailers{Code: code, Message: message, Details: details})
		if code == 0 && err != nil || code != 0 && err == nil {
			t.Errorf("code %d: %v", code, err)
		}
	})
}
