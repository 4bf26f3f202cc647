package tunnel

import (
	"context"
	"sync/atomic"
)

// heed is who receives on the stream of an RPC while that is served.
type heed struct{ state atomic.Int32 }

const (
	alone   int32 = iota // nobody: the goroutine that would, serves the RPC
	another              // another goroutine
	over                 // the RPC has been served by the goroutine that goes on receiving
)

// watch has another goroutine receive, unless one does or the RPC has been served.
func (c *call) watch() {
	if c.heed.state.CompareAndSwap(alone, another) {
		c.stream.handOver()
	}
}

// settle is called when the RPC has been served. It says whether who served it is to receive.
func (c *call) settle() bool { return c.heed.state.CompareAndSwap(alone, over) }

// handlerContext is the context of an RPC whose request is whole. Nothing more can come for
// it but a cancel, or the stream's end; so nothing is received before the handler wants to
// know of that. Most answer without: a Get from what is in memory has no need of a second
// goroutine, which would cost a tenth of it.
type handlerContext struct {
	context.Context //nolint:containedctx // it is one
	call            *call
}

// Done implements context.Context.
func (h handlerContext) Done() <-chan struct{} {
	h.call.watch()
	return h.Context.Done()
}

// Err implements context.Context.
func (h handlerContext) Err() error {
	h.call.watch()
	return h.Context.Err()
}
