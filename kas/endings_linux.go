package kas

import (
	"encoding/binary"
	"net"
	"syscall"
)

// States of a TCP connection (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpClose       = 7 // it was reset
	tcpCloseWait   = 8 // the other end closed it
)

// endingOf says how a connection that is about to be closed here ended.
func endingOf(conn *net.TCPConn) string {
	why := endedSomehow
	raw, err := conn.SyscallConn()
	if err != nil {
		return why
	}
	_ = raw.Control(func(fd uintptr) { // it fails where the connection was closed before
		// The first bytes of struct tcp_info: state, and how often something was sent again.
		word, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err != nil {
			return
		}
		var info [4]byte
		binary.NativeEndian.PutUint32(info[:], uint32(word))
		switch state, sentAgain := info[0], info[2]; {
		case state == tcpCloseWait, state == tcpClose:
			why = endedByAgent
		case state == tcpEstablished && sentAgain > 0:
			why = endedSilent
		case state == tcpEstablished:
			why = endedByKas
		}
	})
	return why
}
