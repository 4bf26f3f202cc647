package grpctool

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

func TestRaw_IsTheMessageThatItHolds(t *testing.T) {
	message := &grpc_health_v1.HealthCheckRequest{Service: "a service"}
	for name, marshal := range map[string]func(any) ([]byte, error){
		"by itself": Marshal,
		"the codec": func(m any) ([]byte, error) {
			data, err := RawCodec().Marshal(m)
			return data.Materialize(), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			raw, again := &Raw{}, &grpc_health_v1.HealthCheckRequest{}
			if err := Unmarshal(data, raw); err != nil {
				t.Fatal(err)
			}
			if data, err = marshal(raw); err != nil {
				t.Fatal(err)
			}
			if err := RawCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, again); err != nil || !proto.Equal(message, again) {
				t.Errorf("got %v, %v", again, err)
			}
			whole := &Raw{}
			if err := RawCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data[:3]), mem.SliceBuffer(data[3:])}, whole); err != nil || !bytes.Equal(whole.Data, data) {
				t.Errorf("got %v, %v", whole, err)
			}
		})
	}
	for _, empty := range []any{&Raw{}, &grpc_health_v1.HealthCheckRequest{}} {
		if data, err := Marshal(empty); err != nil || data == nil || len(data) != 0 {
			t.Errorf("%T: got %v, %v: an empty message is one", empty, data, err)
		}
	}
	if _, err := Marshal(3); err == nil {
		t.Error("3 was taken for a message")
	}
	if err := Unmarshal([]byte{0xff}, &grpc_health_v1.HealthCheckRequest{}); err == nil {
		t.Error("what is no message was decoded")
	}
}
