package proxy

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
)

func TestPart_IsAnHttpRequest(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, maxPart} {
		data := bytes.Repeat([]byte("x"), n)
		got := &agentrpc.HttpRequest{}
		if err := proto.Unmarshal(part(data).Data, got); err != nil || !bytes.Equal(got.GetData(), data) || got.GetHead() != nil {
			t.Errorf("%d bytes: got %v, %v", n, got, err)
		}
	}
}

// FuzzParse: an agent may send anything.
func FuzzParse(f *testing.F) {
	head := &agentrpc.HttpResponseHead{Status: 200, Headers: []*agentrpc.HttpHeader{{Name: "A", Values: []string{"b"}}}}
	for _, seed := range []*agentrpc.HttpResponse{{}, {Head: head}, {Data: []byte("x")}, {Head: head, Data: []byte("x")}} {
		encoded, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
		f.Add(append(encoded, encoded...))
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		want := &agentrpc.HttpResponse{}
		wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(encoded, want)
		head, data, err := parse(encoded)
		if (wantErr == nil) != (err == nil) {
			t.Fatalf("protobuf: %v, here: %v", wantErr, err)
		}
		if err != nil {
			return
		}
		got := &agentrpc.HttpResponse{Head: head, Data: data}
		again, err := proto.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		known := &agentrpc.HttpResponse{}
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(again, known); err != nil || !proto.Equal(want, known) {
			t.Fatalf("protobuf: %v, here: %v, %v", want, known, err)
		}
	})
}
