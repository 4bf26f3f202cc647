package kubeapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// protocols that the API server goes on with, in lower case.
var protocols = []string{"websocket", "spdy/3.1"}

// upgradeOf returns what a request would go on with; empty: nothing that is to be had.
func upgradeOf(head *agentrpc.HttpRequestHead) string {
	if !slices.Contains(protocols, strings.ToLower(head.GetUpgrade())) {
		return ""
	}
	return head.GetUpgrade()
}

// askUpgrade has a request ask for a protocol. It has no body then: what the client sends
// is that protocol's.
func askUpgrade(request *http.Request, protocol string) {
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", protocol)
	request.Body, request.ContentLength = http.NoBody, 0
}

// checkUpgrade refuses an answer that goes on with something that nobody has asked for.
func checkUpgrade(response *http.Response, wanted string) error {
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	if got := response.Header.Get("Upgrade"); wanted == "" || !strings.EqualFold(got, wanted) {
		return status.Errorf(codes.Unavailable, "the API server goes on with %.40q though asked for %.40q", got, wanted)
	}
	return nil
}

// goOn passes on what both sides say after 101 until the API server says no more.
func (e *exchange) goOn(ctx context.Context, response *http.Response, from *requestBody) error {
	conn, ok := response.Body.(io.ReadWriter)
	if !ok {
		return status.Errorf(codes.Internal, "the connection to the API server cannot be written to: it is a %T", response.Body)
	}
	e.server.metrics.upgraded.Inc()
	defer e.server.metrics.upgraded.Dec()
	unwatch := context.AfterFunc(ctx, func() { _ = response.Body.Close() }) // net/http no longer does
	defer unwatch()
	go e.forward(conn, from)
	return e.sendBody(conn)
}

// forward writes what the client sends until it sends no more, or the API server does not
// take it.
func (e *exchange) forward(to io.Writer, from *requestBody) {
	data, err := from.rest, error(nil)
	for err == nil {
		if _, writeErr := to.Write(data); writeErr != nil {
			return // why, reading says
		}
		tunnelwire.Recycle(data)
		data, err = e.receive()
	}
	if !errors.Is(err, io.EOF) {
		e.fail(err)
		return
	}
	half, ok := to.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		e.fail(status.Error(codes.Canceled, "the client has closed the connection"))
	}
}
