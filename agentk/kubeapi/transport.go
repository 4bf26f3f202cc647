package kubeapi

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

const (
	// connectTimeout bounds a TCP connect. That of TLS is client-go's.
	connectTimeout = 10 * time.Second
	// gateWidth is how many requests look for a connection at a time, unless they have
	// waited for gatePatience: it takes that long where the API server does not answer.
	gateWidth    = 4
	gatePatience = time.Second
)

// transports make requests.
type transports struct {
	// plain makes ordinary ones, over HTTP/2 where there is TLS.
	plain http.RoundTripper
	// upgrading makes those that may go on with another protocol, which HTTP/1.1 alone can.
	upgrading http.RoundTripper
	// bulk makes those whose answers may be large.
	bulk http.RoundTripper
}

// newTransports returns transports. They share no connection with other parts of the agent:
// what people do is not to be in its way.
func newTransports(given *rest.Config) (t transports, err error) {
	cfg := rest.CopyConfig(given)
	cfg.DisableCompression = true // what the client accepts is its own to say
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	if t.plain, err = newGate(cfg); err != nil {
		return t, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.NextProtos = []string{"http/1.1"}
	if t.upgrading, err = newGate(cfg); err != nil {
		return t, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Dial = readingAhead(cfg.Dial)
	gate, err := newGate(cfg)
	t.bulk = bulk{gate}
	return t, err
}

// closeIdle closes connections that nobody uses.
func (t transports) closeIdle() {
	for _, one := range []http.RoundTripper{t.plain, t.upgrading, t.bulk} {
		utilnet.CloseIdleConnectionsFor(one)
	}
}

// gate lets few requests at a time look for a connection. net/http connects for each
// request that finds none with room, and throws away what came too late for its request:
// hundreds of connections where many begin at once and few are needed.
type gate struct {
	http.RoundTripper
	looking chan struct{}
	// patience is gatePatience.
	patience time.Duration
}

var _ utilnet.RoundTripperWrapper = (*gate)(nil)

func newGate(cfg *rest.Config) (*gate, error) {
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connections to the API server: %w", err)
	}
	return &gate{RoundTripper: transport, looking: make(chan struct{}, gateWidth), patience: gatePatience}, nil
}

// WrappedRoundTripper implements utilnet.RoundTripperWrapper.
func (g *gate) WrappedRoundTripper() http.RoundTripper { return g.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g *gate) RoundTrip(request *http.Request) (*http.Response, error) {
	if !g.enter(request) {
		return g.RoundTripper.RoundTrip(request) //nolint:wrapcheck // it is a RoundTripper's
	}
	leave := sync.OnceFunc(func() { <-g.looking })
	defer leave()
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { leave() }}
	return g.RoundTripper.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), trace))) //nolint:wrapcheck // as above
}

// enter waits for its turn. It says whether the request has one.
func (g *gate) enter(request *http.Request) bool {
	select {
	case g.looking <- struct{}{}:
		return true
	default:
	}
	patience := time.NewTimer(g.patience)
	defer patience.Stop()
	select {
	case g.looking <- struct{}{}:
		return true
	case <-patience.C:
	case <-request.Context().Done():
	}
	return false
}
