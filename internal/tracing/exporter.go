package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// defaultPath is where collectors take traces.
const defaultPath = "/v1/traces"

// errFull is why a span is lost that nothing has been tried with.
var errFull = errors.New("too many spans wait to be sent")

// newExporter returns what speaks to the collector, and what closes its idle connections.
func newExporter(ctx context.Context, cfg Config) (exporter sdktrace.SpanExporter, idle func(), err error) {
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil || (endpoint.Scheme != "http" && endpoint.Scheme != "https") || endpoint.Host == "" || endpoint.User != nil || endpoint.RawQuery != "" {
		return nil, nil, fmt.Errorf("this is not the URL of a collector; write one like http://127.0.0.1:4318%s, without a user, a password or a query", defaultPath)
	}
	if endpoint.Path == "" || endpoint.Path == "/" {
		endpoint.Path = defaultPath
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cfg.CACertPEM) > 0 {
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(cfg.CACertPEM) {
			return nil, nil, errors.New("there is no certificate in what the collector's must be signed by")
		}
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: sendTime}).DialContext,
		TLSClientConfig:     secure,
		TLSHandshakeTimeout: sendTime,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
	}
	options := []otlptracehttp.Option{
		otlptracehttp.WithEndpointURL(endpoint.String()),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithHTTPClient(&http.Client{
			Transport: transport, Timeout: sendTime,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token stays here
		}),
	}
	if cfg.Token != "" {
		options = append(options, otlptracehttp.WithHeaders(map[string]string{"Authorization": "Bearer " + cfg.Token}))
	}
	made, err := otlptrace.New(ctx, otlptracehttp.NewClient(options...))
	if err != nil {
		return nil, nil, fmt.Errorf("set up what sends traces: %w", err)
	}
	return made, transport.CloseIdleConnections, nil
}
