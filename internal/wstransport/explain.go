package wstransport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxQuote is how much of an answer an error quotes, in bytes.
const maxQuote = 200

// failure is an error about the dialer's URL.
func (d *Dialer) failure(format string, args ...any) error {
	return fmt.Errorf("connect to "+strings.ReplaceAll(d.URL.Redacted(), "%", "%%")+": "+format, args...)
}

func (d *Dialer) failed(err error) error { return d.failure("%w", err) }

// What the other end's first byte means where HTTP is expected.
const (
	tlsAlert = heard | 0x15
	http2    = heard // and a zero, of the length of its settings
)

// explain says in words what went wrong with an upgrade. response and raw may be nil.
func (d *Dialer) explain(err error, response *http.Response, raw *rawConn) error {
	if response != nil {
		return d.refused(err, response)
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // the rest repeats the address
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	began, hungUp := int32(0), false
	if raw != nil {
		// With TLS, the end may have been told and read inside of it. One of net/http's
		// words for that is a string.
		began = raw.began.Load()
		hungUp = raw.hungUp.Load() || errors.Is(err, io.EOF) || strings.Contains(err.Error(), "server closed idle connection")
	}
	switch {
	case began == tlsAlert && !d.secure():
		return d.failure("TLS is spoken there; use wss:// or grpcs:// (%w)", err)
	case began == http2 && !d.secure():
		return d.failure("no WebSocket is spoken there; if it is gRPC, use grpc:// (%w)", err)
	case errors.As(err, &certificate):
		return d.failure("its certificate is not trusted: %w", err)
	case hungUp:
		return d.failure("it hangs up without an answer; if gRPC is spoken there, use grpc:// or grpcs:// (%w)", err)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return d.failure("no TLS is spoken there; use ws:// or grpc:// where that is safe (%w)", err)
	}
	return d.failed(err)
}

// refused explains an answer other than an upgrade.
func (d *Dialer) refused(err error, response *http.Response) error {
	if response.StatusCode == http.StatusSwitchingProtocols {
		return d.failed(err) // to something that is no WebSocket
	}
	return d.failure("the answer is %s, not a WebSocket: %s%s", response.Status, advice(response), quote(response.Body))
}

func advice(response *http.Response) string {
	switch code := response.StatusCode; {
	case code == http.StatusNotFound:
		return "check the path"
	case code >= 300 && code < 400:
		return fmt.Sprintf("redirects are not followed, write the final address (%q)", response.Header.Get("Location"))
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return "something before kas does not let it through"
	case code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		return "the load balancer there does not reach kas"
	default:
		return "check host, port and path, and that the load balancer there passes WebSockets on"
	}
}

// quote is the first line of an answer's body, for an error.
func quote(body io.Reader) string {
	if body == nil {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(body, maxQuote)) // what there is, is good enough
	line, _, _ := strings.Cut(strings.TrimSpace(strings.ToValidUTF8(string(text), "\uFFFD")), "\n")
	if line == "" {
		return ""
	}
	return fmt.Sprintf(" (it says %q)", line)
}

// proxied explains what a proxy answered to CONNECT.
func (d *Dialer) proxied(_ context.Context, proxy *url.URL, _ *http.Request, response *http.Response) error {
	if response.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("the proxy %s does not let it through: %s", proxy.Redacted(), response.Status)
}
