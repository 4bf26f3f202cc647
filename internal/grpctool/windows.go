package grpctool

import "google.golang.org/grpc"

// Windows of the connection between agentk and kas, and of kas's API. Left to itself gRPC
// finds out by pings how large they had better be: with whatever comes alone, as a question
// or its answer does, another frame goes out that the other end has to read and to answer,
// which is a third of all system calls of a question through the tunnel.
const (
	// StreamWindow is how much of an RPC may be on its way, or wait for a reader that is slow,
	// in bytes. Over a link of 50 ms one RPC moves 10 MB a second with it.
	StreamWindow = 512 << 10
	// ConnectionWindow is how much of all RPCs may be on its way. It bounds no memory: gRPC
	// gives it back as soon as the bytes have come, whoever reads them when.
	ConnectionWindow = 16 << 20
)

// ServerWindows has a server keep to the windows above.
func ServerWindows() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(StreamWindow), grpc.StaticConnWindowSize(ConnectionWindow)}
}

// ClientWindows has a client keep to them.
func ClientWindows() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStaticStreamWindowSize(StreamWindow), grpc.WithStaticConnWindowSize(ConnectionWindow)}
}
