package grpctool

import (
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
)

// gRPC's own pool has no size between 32 KiB and 1 MiB, and clears a buffer whenever it hands
// it out: a frame of the tunnel, of 64 KiB, would have a MiB cleared at either end, which
// costs more than all else that is done with it. gRPC wants its pool set before anything runs.
func init() { experimental.SetDefaultBufferPool(buffers) }

var buffers = newBufferPool()

// ServerBuffers has a server take its buffers from the same pool: servers know the one that
// gRPC began with.
func ServerBuffers() grpc.ServerOption { return experimental.BufferPool(buffers) }

// bufferSizes are those of buffers for messages, in bytes, as gRPC has them and more. 65 KiB
// hold a frame of the tunnel and what is around it.
var bufferSizes = []int{256, 4 << 10, 16 << 10, 32 << 10, 65 << 10, 256 << 10, 1 << 20}

// bufferPool is a mem.BufferPool. What it hands out is not cleared: gRPC fills buffers, from
// end to end, before it looks at them.
type bufferPool struct {
	pools []sync.Pool // of *[]byte, one for each size
}

func newBufferPool() *bufferPool { return &bufferPool{pools: make([]sync.Pool, len(bufferSizes))} }

// Get implements mem.BufferPool.
func (p *bufferPool) Get(length int) *[]byte {
	i, _ := slices.BinarySearch(bufferSizes, length)
	if i == len(bufferSizes) {
		b := make([]byte, length)
		return &b
	}
	b, ok := p.pools[i].Get().(*[]byte)
	if !ok {
		made := make([]byte, bufferSizes[i])
		b = &made
	}
	*b = (*b)[:length]
	return b
}

// Put implements mem.BufferPool.
func (p *bufferPool) Put(b *[]byte) {
	if i, known := slices.BinarySearch(bufferSizes, cap(*b)); known {
		p.pools[i].Put(b)
	}
}
