package diagnose

import (
	"context"
	"io"
	"net/http"
)

// within has the requests of a client that takes no contexts end with one.
type within struct {
	ctx  context.Context //nolint:containedctx // it lives as long as one examination
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w *within) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(w.ctx, cancel) //nolint:contextcheck // it is the other one that ends the request
	end := func() { stop(); cancel() }
	answer, err := w.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		end()
		return nil, err //nolint:wrapcheck // a RoundTripper passes on what it got
	}
	answer.Body = &body{ReadCloser: answer.Body, end: end}
	return answer, nil
}

// body ends its request's context when it is closed.
type body struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (b *body) Close() error {
	defer b.end()
	return b.ReadCloser.Close() //nolint:wrapcheck // as above
}
