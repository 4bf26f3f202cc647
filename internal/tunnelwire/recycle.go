package tunnelwire

import "sync"

// spareSizes are how large buffers for frames are made, in bytes: frames of which most is
// data come in these, and the largest holds FrameSize. What comes back has lost what stood
// before its message: up to spareLoss.
var spareSizes = [...]int{16<<10 + 2*spareLoss, 32<<10 + 2*spareLoss, FrameSize + 2*spareLoss}

const (
	spareLoss = 1 << 10
	// leastSpare is how large a frame is at least that has such a buffer, in bytes.
	leastSpare = 12 << 10
)

var spares = [len(spareSizes)]sync.Pool{newSpares(0), newSpares(1), newSpares(2)}

func newSpares(i int) sync.Pool {
	return sync.Pool{New: func() any { b := make([]byte, 0, spareSizes[i]); return &b }}
}

// takeSpare returns a buffer for a frame of n bytes; nil: there is none for it.
func takeSpare(n int) []byte {
	if n < leastSpare {
		return nil
	}
	for i, size := range spareSizes {
		if n <= size-spareLoss {
			return *spares[i].Get().(*[]byte) //nolint:forcetypeassert // there is nothing else in it
		}
	}
	return nil
}

// Recycle gives back a message that came through the tunnel, for frames to come. Only who has
// it for himself, and does not use it any more, may: it spares the garbage collector, which
// otherwise has half of the work with a large transfer. Whoever does not know lets it be.
func Recycle(message []byte) {
	for i, size := range spareSizes {
		if n := cap(message); n >= size-spareLoss && n <= size {
			message = message[:0]
			spares[i].Put(&message)
			return
		}
	}
}
