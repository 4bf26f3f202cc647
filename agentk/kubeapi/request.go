package kubeapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// smallBody is how large a body may be that is read before the request is made, in bytes.
const smallBody = 64 << 10

// methods are those that the Kubernetes API has. TRACE, which others may answer with what
// they were sent, would show the agent's credentials.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
}

// newRequest returns the request that a head asks for, without its body. Its errors are
// statuses.
func (s *Server) newRequest(ctx context.Context, head *agentrpc.HttpRequestHead) (*http.Request, error) {
	if !slices.Contains(methods, head.GetMethod()) {
		return nil, invalid("the Kubernetes API has no method %.20q", head.GetMethod())
	}
	u, err := parseURL(head.GetUrl())
	if err != nil {
		return nil, err
	}
	if err := s.services.Load().check(u.Path); err != nil {
		return nil, err
	}
	header, err := requestHeader(head.GetHeaders())
	if err != nil {
		return nil, err
	}
	if err := s.impersonate(header, head.GetImpersonation()); err != nil {
		return nil, err
	}
	request := &http.Request{
		Method: head.GetMethod(), URL: below(s.base, u), Host: s.base.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	return request.WithContext(ctx), nil
}

// below returns a path and query below a base.
func below(base, u *url.URL) *url.URL {
	out := *base
	prefix, rawPrefix := trimSlash(base.Path), trimSlash(base.EscapedPath())
	out.Path, out.RawPath = prefix+u.Path, rawPrefix+u.EscapedPath()
	out.RawQuery, out.ForceQuery = u.RawQuery, u.ForceQuery
	out.Fragment, out.RawFragment, out.User = "", "", nil
	return &out
}

// requestBody is a body as it comes. It is read by one goroutine.
type requestBody struct {
	exchange *exchange
	// part is what has come last, and rest what of it has not been read.
	part, rest []byte
	// left is how much is to come after rest, as the head has it; negative: it does not say.
	left int64
	err  error
}

var (
	errShort = invalid("the body is shorter than its content_length")
	errLong  = invalid("the body is longer than its content_length")
)

// attach makes it the body of a request.
func (b *requestBody) attach(request *http.Request, head *agentrpc.HttpRequestHead) error {
	b.exchange.server.metrics.sent(len(b.rest))
	request.ContentLength = -1
	if head.ContentLength != nil {
		request.ContentLength = head.GetContentLength()
		b.left = request.ContentLength - int64(len(b.rest))
		if request.ContentLength < 0 || b.left < 0 {
			return errLong
		}
	}
	switch {
	case request.ContentLength == 0:
		request.Body = http.NoBody
		return nil
	case request.ContentLength < 0 || request.ContentLength > smallBody:
		request.Body = b
		return nil
	}
	whole := make([]byte, request.ContentLength)
	if _, err := io.ReadFull(b, whole); err != nil {
		return err //nolint:wrapcheck // it is a status
	}
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(whole)), nil }
	request.Body, _ = request.GetBody() // never fails
	return nil
}

// Read implements io.Reader. An error but io.EOF has ended the exchange.
func (b *requestBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		tunnelwire.Recycle(b.part)
		if b.part, b.err = b.next(); b.err != nil && !errors.Is(b.err, io.EOF) {
			b.exchange.fail(b.err)
		}
		b.rest = b.part
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (b *requestBody) Close() error { return nil }

// next receives what comes next.
func (b *requestBody) next() ([]byte, error) {
	if b.left == 0 {
		return nil, io.EOF
	}
	data, err := b.exchange.receive()
	switch {
	case errors.Is(err, io.EOF) && b.left > 0:
		return nil, errShort
	case err != nil:
		return nil, err
	case b.left > 0 && int64(len(data)) > b.left:
		return nil, errLong
	case b.left > 0:
		b.left -= int64(len(data))
	}
	return data, nil
}

// receive receives a part of what the client sends, which is the caller's own. io.EOF: there
// is no more.
func (e *exchange) receive() ([]byte, error) {
	var message grpctool.Raw
	if err := e.stream.RecvMsg(&message); err != nil {
		return nil, err //nolint:wrapcheck // it is io.EOF or the RPC's status
	}
	data, err := dataOf(message.Data)
	if err != nil {
		return nil, err
	}
	e.server.metrics.sent(len(data))
	return data, nil
}

// dataNumber is that of the field data, of HttpRequest and HttpResponse.
const dataNumber protowire.Number = 2

// dataOf returns the data of an encoded HttpRequest that is not the first. It refers to
// message.
func dataOf(message []byte) (data []byte, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, invalid("a message cannot be read: %v", protowire.ParseError(n))
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return nil, invalid("a message cannot be read: %v", protowire.ParseError(n))
		}
		switch {
		case number == dataNumber && kind == protowire.BytesType:
			data, _ = protowire.ConsumeBytes(message)
		case number < dataNumber:
			return nil, invalid("a head came again")
		}
		message = message[n:]
	}
	return data, nil
}
