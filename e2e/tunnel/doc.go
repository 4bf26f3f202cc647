// Package tunnel tries both ends of the reverse tunnel, kas/tunnel and agentk/tunnel, on
// each other: the same tests over every transport that agentk has, gRPC and WebSocket,
// in plaintext and over TLS.
package tunnel
