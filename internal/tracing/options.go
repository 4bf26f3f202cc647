package tracing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/internal/version"
)

// flushTimeout is how long a program that ends gives the collector to take what waits.
const flushTimeout = 3 * time.Second

// Variables that name the collector where no flag does, as OpenTelemetry has them: the
// second is the address of all signals, below which traces have their path.
const (
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesPath        = "/v1/traces"
)

// Options are the flags of a program that traces.
type Options struct {
	// Endpoint is the collector; empty: the environment says it, and if it does not,
	// nothing is traced.
	Endpoint string
	// TokenFile and CACertFile may be empty.
	TokenFile, CACertFile string
}

// AddFlags registers --tracing-otlp-endpoint and what goes with it.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Endpoint, "tracing-otlp-endpoint", o.Endpoint,
		"`URL` of an OTLP/HTTP collector to send traces to, such as http://127.0.0.1:4318/v1/traces; default $"+envTracesEndpoint+" or $"+envEndpoint+", without which nothing is traced")
	flags.StringVar(&o.TokenFile, "tracing-otlp-token-file", o.TokenFile, "`FILE` with a token for the collector, sent as \"authorization: Bearer\"")
	flags.StringVar(&o.CACertFile, "tracing-otlp-ca-cert-file", o.CACertFile, "PEM `FILE` of who vouches for the collector's certificate, in place of the system's")
}

// endpoint of the collector; empty: there is none.
func (o *Options) endpoint() string {
	if base := os.Getenv(envEndpoint); o.Endpoint == "" && os.Getenv(envTracesEndpoint) == "" && base != "" {
		return strings.TrimSuffix(base, "/") + tracesPath
	}
	return cmp.Or(o.Endpoint, os.Getenv(envTracesEndpoint))
}

var errEmpty = errors.New("the file is empty")

// Start starts what the flags ask for. The program calls stop at its end, also when ctx
// has ended by then: it sends what still waits, for a short while.
func (o *Options) Start(ctx context.Context, service string, registerer prometheus.Registerer, log *zap.Logger) (t *Tracing, stop func(), err error) {
	cfg := Config{
		Service: service, Version: version.Version, Endpoint: o.endpoint(), Registerer: registerer, Log: log,
	}
	if cfg.Endpoint == "" {
		return nil, func() {}, nil
	}
	token, err := read("tracing-otlp-token-file", o.TokenFile)
	if err != nil {
		return nil, nil, err
	}
	cfg.Token = string(token)
	if cfg.CACertPEM, err = read("tracing-otlp-ca-cert-file", o.CACertFile); err != nil {
		return nil, nil, err
	}
	if t, err = New(ctx, cfg); err != nil {
		return nil, nil, fmt.Errorf("--tracing-otlp-endpoint: %w", err)
	}
	return t, func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		_ = t.Shutdown(flush) // what is lost fails nothing
	}, nil
}

// read reads the file that a flag names, without white space around it; the empty path
// is nothing.
func read(flag, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	trimmed := strings.TrimSpace(string(content))
	if trimmed == "" {
		return nil, fmt.Errorf("--%s: %s: %w", flag, path, errEmpty)
	}
	return []byte(trimmed), nil
}
