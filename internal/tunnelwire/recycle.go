package tunnelwire

import "sync"

const (
	// spareSize is how large buffers for large frames are made, in bytes. One that comes back
	// has lost what stood before its message; below leastSpare it is not used again.
	spareSize  = FrameSize + 5<<10
	leastSpare = FrameSize + 1<<10
)

var spares = sync.Pool{New: func() any { b := make([]byte, 0, spareSize); return &b }}

func takeSpare() []byte { return *spares.Get().(*[]byte) } //nolint:forcetypeassert // there is nothing else in it

// Recycle gives back a message that came through the tunnel, for frames to come. Only who has
// it for himself, and does not use it any more, may: it spares the garbage collector, which
// otherwise has half of the work with a large transfer. Whoever does not know lets it be.
func Recycle(message []byte) {
	if cap(message) < leastSpare {
		return
	}
	message = message[:0]
	spares.Put(&message)
}
