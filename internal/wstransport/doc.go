// Package wstransport carries gRPC over WebSocket, for load balancers and proxies that
// let WebSockets through and HTTP/2 not.
//
//	agentk: grpc.ClientConn -> Dialer -> HTTP/1.1 upgrade -> load balancer -> Listener -> grpc.Server :kas
//
// A WebSocket is to gRPC what a TCP connection is: a stream of bytes, on which it speaks
// plaintext HTTP/2. How the bytes are cut into (binary) messages means nothing, and an
// intermediary may cut them anew. Encryption is the WebSocket's own: with wss:// the
// upgrade goes through TLS, gRPC inside does nothing more, and Dialer.Credentials
// tells it that the connection is secure, so that a token that must not travel in the
// clear does not. The upgrade itself carries no token; its path is the load balancer's.
//
// Invariants:
//   - Neither end keeps a whole message in memory: what is read is handed on as it comes.
//   - A connection behaves as net.Conn says. As with TLS, a read or write that its deadline
//     cuts short is the connection's end. Close waits for nobody and says no goodbye beyond
//     what HTTP/2 has said.
//   - A peer that has not upgraded yet costs little: handshakes are bounded in time, size
//     and number. Those beyond the number wait in the kernel.
//   - Redirects are not followed.
//
// A connection has no goroutine of its own: whoever reads and writes drives it, and what
// asks whether the other end is still there is gRPC's keepalive. Listener.Run owns the
// goroutines of handshakes; a Dialer's end with its Dial.
package wstransport

// Subprotocol is what both ends ask for in the upgrade, so that neither takes another
// WebSocket service for its peer.
const Subprotocol = "kas-grpc"
