// Package tunnel is the agent's end of the reverse tunnel: kas, which cannot dial into
// the cluster, makes RPCs on streams that the agent opens (agentrpc.ReverseTunnel).
//
// In go services, as they would go into a grpc.Server; out go streams to kas for as long
// as Run runs, and on them the answers of those services.
//
// A stream is in one of these states:
//
//	opening  it waits for the connection to kas, and says what this process is and offers
//	idle     kas may begin an RPC on it
//	busy     an RPC has begun, and its trailers have not been sent
//
// An RPC begins with a frame that has start, and ends with the trailers, which go out as
// soon as the handler has returned; the stream is idle again then. Frames are numbered by
// their RPC: what bears the number of one that has ended is dropped, because kas may not
// have known. Whatever else breaks the rules in agentrpc/tunnel.proto ends the stream, and
// with it the RPC, with an error that says which rule it was.
//
// How many streams: kas says how many are to be idle, and as many are opened as are
// missing; one until it has said so, and one again when an idle stream fails, because the
// kas that wanted more may be gone. kas ends those that it no longer wants; the agent ends
// none. When a stream fails, and not because of its RPC, the others go on, but no more are opened before a jittered
// and growing wait is over: there is one such wait, not one for each stream.
//
// Invariants:
//   - A stream serves one RPC at a time. An RPC never ends another, nor its stream, by what
//     its handler does: a panic fails the RPC alone.
//   - A unary RPC is answered by one frame, unless it is large. No frame carries more than
//     tunnelwire.FrameSize of a message, so that other streams of the connection have their
//     turn. Nothing waits to be sent along with something else.
//   - A handler that sends waits until HTTP/2 lets it, which holds up its own RPC alone.
//   - Large answers share Config.LargeRate while small RPCs come: what has sent 256 KiB
//     within a second waits for its turn before each frame, and no longer than its RPC
//     lasts. Small ones never wait, and without them nothing does.
//   - Memory of a stream is bounded: one message that is being joined, and the inbox. While
//     a handler leaves more than maxInbox in the inbox, nothing more is received on its
//     stream, so that HTTP/2 holds kas back. A cancel that comes behind is then not seen;
//     a kas that loses patience ends the stream, which is noticed within probeInterval
//     and ends the handler's context. Deadlines need no frame, they end it in time.
//   - Metadata crosses by tunnelwire's allow-list, both ways. A handler's context descends
//     from Run's, and has neither credentials nor outgoing metadata of the stream.
//   - A method that is not registered is UNIMPLEMENTED, and counted under one name.
//
// Who runs what. Run starts every goroutine, and returns when all have ended: one opens
// what is missing; one for each stream receives. When an RPC begins, the goroutine that
// received its start serves it: the answer waits for no hand-over. Another one goes on
// receiving, from the start where something may still come for the RPC; of a unary RPC that
// has come whole nothing can but a cancel, so there is no other before its handler looks at
// its context, or answers more than a frame. So a stream has one goroutine when it is idle,
// and one or two when it is busy. A handler that outlives its stream, because it does not
// heed its context, holds up nothing but Run's return, and where it never looks at its
// context whatever else kas sends on its stream, and the news that this has ended.
package tunnel
