// Package tunnel is kas's end of the reverse tunnel (agentrpc.ReverseTunnel): agents that
// nobody can dial into open streams, and kas makes RPCs on them.
//
// In come agents' streams, by Server.Connect, and who bears which token, from an Access.
// Out goes a grpc.ClientConnInterface for each agent, by Server.Conn: ordinary generated
// stubs work with it, whatever the shape of their methods. It may be used before the agent
// is there, and where it is connected to another kas.
//
// # A stream
//
//	greeting  let in; its TunnelHello has not come. Nobody knows of it.
//	idle      in its process's list of idle streams. Nothing is received.
//	busy      lent to one RPC, from the frame that starts it to the trailers that end it.
//	retiring  busy, and ends after its RPC: kas drains, or the agent is leaving.
//	ended     its reason stands fast; Connect is about to return it, or has.
//
// Streams of one agentk process (instance and token) belong together. An RPC takes the idle
// stream used last of the process that was connected first and offers its service. Where
// none is idle it waits, first come first served, until shortly before its deadline.
//
// kas tells a process how many idle streams it wants with the frame that starts an RPC:
// whatever leaves kas with fewer of them is such a frame. Demand that has not come back for
// Config.Quiet is forgotten: surplus idle streams are told the lower number, and ended.
//
// # A route
//
// Where several kas act as one (Replicas), an RPC takes a stream here if a process that is
// connected here offers its service. Else it goes by way of a kas that says it has the agent,
// and where that one cannot begin it, of the next. Where nobody has the agent, it waits for
// whatever comes first: a stream here, news of others, and if one of them was wrong, a while.
// An RPC that waits for a stream here looks elsewhere when the last process has gone. Of a
// kas that is alone nothing of this is so, and costs nothing.
//
// What other kas ask for (Server.Here) is for agents that are here, and says at once if there
// is none: only who was asked first looks elsewhere, so nothing runs in circles.
//
// # An RPC
//
// The frame that starts it has the first message and, where the method takes one request,
// the end of the requests: a unary RPC is one frame there and, from agentk, one back. What
// the caller waits for crosses as a timeout. A caller that leaves before the end has
// cancel sent, and what the agent still answers is dropped until its trailers come, after
// which the stream is idle again; an agent that takes longer than Config.CancelGrace for
// that loses the stream.
//
// # Invariants
//
//   - A stream serves one RPC at a time; what bears the number of an RPC that has ended is
//     dropped. Whatever else breaks the rules of agentrpc/tunnel.proto ends the stream with
//     INVALID_ARGUMENT and its RPC with UNAVAILABLE. Nothing an agent sends is trusted.
//   - Of what an agent answers, one frame at most (and the message that it is a part of) is
//     kept for a caller that does not read: then nothing is received from that stream, and
//     HTTP/2 holds the agent back. Other streams do not notice.
//   - A caller returns when its context ends. One that is held up in sending then, because
//     the agent does not read, returns within sendGrace and takes its stream along.
//   - Whether an RPC has begun is known: where its first frame cannot be sent, because the
//     stream has just ended, it goes to another stream; later it fails with UNAVAILABLE. So
//     it is by way of another kas, which says that an RPC has not begun (NotBegun).
//   - Metadata crosses by tunnelwire's allow-list; credentials never do.
//   - Streams, processes and waiting RPCs of an agent are bounded. An agent of which there
//     is nothing left is forgotten.
//   - A token that RoR refuses, or that is another agent's now, ends its streams within
//     Config.RecheckPeriod of the moment that Access knows, and at once where Access says
//     that there is reason to ask.
//
// # Goroutines
//
// An idle stream has gRPC's own goroutine, which only waits. Callers send in their own. An RPC
// has one that receives, begun once its first frame is on its way, and that ends with the
// RPC's trailers or the stream, so that its caller can leave at any time; and if it is unary
// and its request has more frames than one, another that sends those. An RPC by way of
// another kas has none here. Server.Run has the two periodic jobs, and returns when all of
// them and all Connects have returned. While it is not running, nothing is rechecked and no
// surplus let go.
//
// Locks: pool.mu guards who has which stream, and is never held while something is sent,
// received or awaited. stream.sending is held by who sends on a stream.
package tunnel
