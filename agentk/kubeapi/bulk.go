package kubeapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Logs and what Services say may be large. They come over HTTP/1.1, each on a connection of
// its own: with HTTP/2 each 16 KiB pass through several hands at either end, and cost the API
// server twice as much.

const (
	// aheadSize is how much of a bulk connection is read at once, in bytes: TLS itself asks
	// for one record at a time.
	aheadSize = 64 << 10
	// leastAhead is how much must have come already, in bytes, to go on reading before what
	// was read is sent. It is more than what stands around pieces of an answer, and so has one
	// in it: nothing is waited for but the rest of a record, which is on its way.
	leastAhead = 8 << 10
)

// isBulk says whether the answer to a request, of a checked path, may be large, and ends by
// itself. With a body both directions might go on at once, which takes HTTP/2.
func isBulk(request *http.Request) bool {
	if request.Method != http.MethodGet {
		return false
	}
	segments := segmentsOf(request.URL.Path)
	if to, _ := proxied(segments); to != nil {
		return true
	}
	n := len(segments)
	return n > 2 && segments[n-1] == "log" && segments[n-3] == "pods" && !request.URL.Query().Has("follow")
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// readingAhead has connections read from in large pieces.
func readingAhead(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &readAhead{conn, bufio.NewReaderSize(conn, aheadSize)}, nil
	}
}

// readAhead is a connection that is read from in large pieces.
type readAhead struct {
	net.Conn
	from *bufio.Reader
}

// Read implements io.Reader.
func (r *readAhead) Read(p []byte) (int, error) { return r.from.Read(p) } //nolint:wrapcheck // it is the connection's

// bulk makes requests over connections that read ahead.
type bulk struct{ http.RoundTripper }

var _ utilnet.RoundTripperWrapper = bulk{}

// WrappedRoundTripper implements utilnet.RoundTripperWrapper.
func (b bulk) WrappedRoundTripper() http.RoundTripper { return b.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bulk) RoundTrip(request *http.Request) (*http.Response, error) {
	var conn net.Conn // of the last try
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { conn = got.Conn }}
	response, err := b.RoundTripper.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		return nil, err //nolint:wrapcheck // it is a RoundTripper's
	}
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	if ahead, ok := conn.(*readAhead); ok {
		response.Body = &bulkBody{response.Body, ahead}
	}
	return response, nil
}

// bulkBody is the body of an answer. Until its end its connection is its own.
type bulkBody struct {
	io.ReadCloser
	conn *readAhead
}

// Read implements io.Reader. It goes on while more has come already.
func (b *bulkBody) Read(p []byte) (n int, err error) {
	for {
		var more int
		more, err = b.ReadCloser.Read(p[n:])
		n += more
		if err != nil || n == len(p) || b.conn.from.Buffered() < leastAhead {
			return n, err //nolint:wrapcheck // it is the body's
		}
	}
}
