//go:build !linux

package kas

import "net"

// endingOf says how a connection that is about to be closed here ended: who knows.
func endingOf(*net.TCPConn) string { return endedSomehow }
