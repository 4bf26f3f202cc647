package grpctool

import (
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
)

func TestBufferPool_IsGRPCs(t *testing.T) {
	if _, ok := mem.DefaultBufferPool().(*bufferPool); !ok {
		t.Errorf("gRPC has %T", mem.DefaultBufferPool())
	}
}

func TestBufferPool_HandsOutWhatFits(t *testing.T) {
	p := newBufferPool()
	for range 2 { // anew, and again
		for _, length := range []int{0, 1, 256, 257, 64<<10 + 20, 1 << 20, 1<<20 + 1} {
			b := p.Get(length)
			if len(*b) != length {
				t.Errorf("got %d bytes, want %d", len(*b), length)
			}
			if i := slices.IndexFunc(bufferSizes, func(size int) bool { return size >= length }); i >= 0 && cap(*b) != bufferSizes[i] {
				t.Errorf("%d bytes are in a buffer of %d", length, cap(*b))
			}
			*b = (*b)[:length/2]
			p.Put(b)
		}
	}
	odd := make([]byte, 300)
	p.Put(&odd)
	if b := p.Get(300); cap(*b) == 300 {
		t.Error("a buffer that is not of this pool came out of it")
	}
}
