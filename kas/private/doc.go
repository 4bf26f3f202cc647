// Package private is the private API of kas, both ends: how replicas of kas call each other.
//
// NewServer makes the server of this replica. In come calls of other replicas. Those of
// services that are registered on it are its own to answer. Any other call is for an agent:
// it goes, message by message and without being looked at, to where the agent is connected
// to this replica (an Agents), and what the agent answers goes back. It never goes on to a
// third replica: who asks knows best where else to look, and nothing can run in circles.
//
// Client is the other end: Conn is another replica as a connection, for services that are
// registered there; NewStream is an RPC of an agent that is connected there.
//
// # On the wire
//
// gRPC, plaintext or TLS. Each call bears "authorization: Bearer <JWT>": HS256, issuer and
// audience "gitlab-kas", valid for seconds, by a secret that replicas share.
//
// An RPC of an agent is called by its own method. Metadata says which agent (kas-agent-id)
// and what is known of its shape (kas-rpc-shape); what else crosses is what crosses the
// tunnel, both ways (tunnelwire). Deadline, cancellation, status and trailers are gRPC's.
// A unary RPC is a unary RPC. Of any other, headers are sent as soon as it has begun at the
// agent, and the first message answered is an agentrpc.TunnelHeaders: the agent's own
// headers, which may come much later.
//
// An RPC that has not begun at an agent, and can be tried elsewhere without being done
// twice, says so by the trailer "not-begun". No agent can send that: the key does not cross
// the tunnel.
//
// # Invariants
//
//   - Nothing is answered without a valid token, and nothing of a call that bears none is
//     counted or kept.
//   - Of each direction of an RPC one message is held at a time, and what HTTP/2 lets through
//     (window): a slow reader reaches through to the agent, and holds up nobody else.
//   - A Client has two connections for each replica that was called lately, one of them for
//     unary RPCs, which so never wait behind the bulk of others; MaxConnections in all. On
//     each a sign of life is asked for every PingPeriod. One that does not give it within
//     PingTimeout is closed, and its RPCs end with UNAVAILABLE; so is one that was not used
//     for IdleTimeout.
//   - What is logged is logged once: a replica with another secret, and a lost connection.
//
// # Goroutines
//
// The server has gRPC's, and one more for an RPC with several requests; it ends with the
// RPC. Client.Run has the pings, and closes all connections when it ends; calls fail then.
package private
