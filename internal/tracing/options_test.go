package tracing_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/internal/tracing"
)

func TestOptions_NameTheCollector(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		flag, traces, all string // URLs in the flag and the variables; COLLECTOR is the collector's
		path              string // empty: nothing is traced
	}{
		"nothing is said":                 {},
		"the flag":                        {flag: "COLLECTOR/a", traces: "http://127.0.0.1:1", all: "http://127.0.0.1:1", path: "/a"},
		"the variable for traces":         {traces: "COLLECTOR/b", all: "http://127.0.0.1:1", path: "/b"},
		"the variable for all signals":    {all: "COLLECTOR/base/", path: "/base/v1/traces"},
		"the flag, as the server's alone": {flag: "COLLECTOR", path: "/v1/traces"},
	} {
		t.Run(name, func(t *testing.T) {
			collector := newReceiver(t)
			here := func(url string) string { return strings.Replace(url, "COLLECTOR", collector.URL, 1) }
			t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", here(row.traces))
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", here(row.all))
			o := &tracing.Options{}
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			o.AddFlags(flags)
			if err := flags.Parse([]string{"--tracing-otlp-endpoint=" + here(row.flag), "--tracing-otlp-token-file=" + token}); err != nil {
				t.Fatal(err)
			}
			traced, stop, err := o.Start(t.Context(), "test", prometheus.NewRegistry(), zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			_, span := traced.Start(t.Context(), "a span")
			span.End()
			if err := traced.Shutdown(t.Context()); err != nil { // takes the time that it needs
				t.Fatal(err)
			}
			stop()
			collector.mu.Lock()
			defer collector.mu.Unlock()
			switch {
			case row.path == "":
				if traced.Enabled() || len(collector.requests) > 0 {
					t.Error("it traces")
				}
			case len(collector.requests) != 1:
				t.Errorf("%d requests came", len(collector.requests))
			case collector.requests[0].URL.Path != row.path || collector.requests[0].Header.Get("Authorization") != "Bearer secret":
				t.Errorf("it asked for %s with %v", collector.requests[0].URL, collector.requests[0].Header)
			}
		})
	}
}

func TestOptions_SayWhatIsWrong(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		options tracing.Options
		says    string
	}{
		"an address that is none":  {tracing.Options{Endpoint: "collector:4318"}, "--tracing-otlp-endpoint: "},
		"a token that is missing":  {tracing.Options{Endpoint: "http://a", TokenFile: "/nowhere"}, "--tracing-otlp-token-file: "},
		"a token that is empty":    {tracing.Options{Endpoint: "http://a", TokenFile: empty}, "is empty"},
		"certificates that are no": {tracing.Options{Endpoint: "https://a", CACertFile: "options_test.go"}, "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := row.options.Start(t.Context(), "test", prometheus.NewRegistry(), zap.NewNop())
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStartWithin_StartsNoTrace(t *testing.T) {
	traced, spans := recorded(t)
	if _, span := traced.StartWithin(t.Context(), "alone"); span.IsRecording() {
		t.Error("it has begun a trace")
	}
	ctx, outer := traced.Start(t.Context(), "outer")
	_, inner := traced.StartWithin(ctx, "inner")
	inner.End()
	outer.End()
	if got := spans(); len(got) != 2 || got[0].Parent().SpanID() != got[1].SpanContext().SpanID() {
		t.Errorf("got %v", got)
	}
}
