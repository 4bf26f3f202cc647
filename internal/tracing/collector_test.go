package tracing_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kas-agentk/kas/internal/tracing"
)

func TestNew_SpansReachTheCollector(t *testing.T) {
	collector, metrics := newReceiver(t), prometheus.NewRegistry()
	traced, err := tracing.New(t.Context(), tracing.Config{
		Service: "test", Version: "v1", Endpoint: collector.URL, Token: "secret", Registerer: metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, outer := traced.Start(t.Context(), "outer", attribute.Int("files", 3))
	_, inner := traced.Start(ctx, "inner")
	inner.End()
	outer.End()
	if err := traced.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	spans := collector.spans()
	if len(spans) != 2 {
		t.Fatalf("got %v", spans)
	}
	above, below := spans["outer"], spans["inner"]
	if !bytes.Equal(above.GetTraceId(), below.GetTraceId()) || !bytes.Equal(below.GetParentSpanId(), above.GetSpanId()) || len(above.GetParentSpanId()) > 0 {
		t.Errorf("they are not one below the other: %v, %v", above, below)
	}
	if a := above.GetAttributes(); len(a) != 1 || a[0].GetKey() != "files" || a[0].GetValue().GetIntValue() != 3 {
		t.Errorf("attributes are %v", a)
	}
	request := collector.requests[0]
	if request.URL.Path != "/v1/traces" || request.Header.Get("Authorization") != "Bearer secret" {
		t.Errorf("the request was to %s with %v", request.URL, request.Header)
	}
	about := map[string]string{}
	for _, a := range collector.got[0].GetResource().GetAttributes() {
		about[a.GetKey()] = a.GetValue().GetStringValue()
	}
	if about["service.name"] != "test" || about["service.version"] != "v1" {
		t.Errorf("they come from %v", about)
	}
	wantCounts(t, metrics, 0, 2)
}

func wantCounts(t *testing.T, metrics prometheus.Gatherer, lost, sent float64) {
	t.Helper()
	got := map[string]float64{}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if got["lost"] != lost || got["sent"] != sent {
		t.Errorf("counted %v, want %g lost and %g sent", got, lost, sent)
	}
}

func TestNew_ATokenIsNotSentElsewhere(t *testing.T) {
	elsewhere := newReceiver(t)
	collector := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer collector.Close()
	metrics := prometheus.NewRegistry()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "test", Endpoint: collector.URL + "/v1/traces", Token: "secret", Registerer: metrics})
	if err != nil {
		t.Fatal(err)
	}
	_, span := traced.Start(t.Context(), "a span")
	span.End()
	_ = traced.Shutdown(t.Context())
	if len(elsewhere.requests) > 0 {
		t.Error("the redirect was followed")
	}
	wantCounts(t, metrics, 1, 0)
}

func TestShutdown_ACollectorThatIsAwayFailsNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := l.Addr().String()
	_ = l.Close()
	core, said := observer.New(zap.WarnLevel)
	metrics := prometheus.NewRegistry()
	traced, err := tracing.New(t.Context(), tracing.Config{
		Service: "test", Endpoint: "http://" + away, Registerer: metrics, Log: zap.New(core),
	})
	if err != nil {
		t.Fatal(err)
	}
	const spans = 600 // two batches
	for range spans {
		_, span := traced.Start(t.Context(), "a span")
		span.End()
	}
	for range 2 { // twice does no harm
		if err := traced.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	wantCounts(t, metrics, spans, 0)
	if said.Len() != 1 {
		t.Errorf("it was said %d times: %v", said.Len(), said.All())
	}
}

func TestShutdown_ACollectorThatHangsHoldsNobodyUp(t *testing.T) {
	asked, over := make(chan struct{}, 1), make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	defer collector.Close()
	defer close(over)
	metrics := prometheus.NewRegistry()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "test", Endpoint: collector.URL, Registerer: metrics})
	if err != nil {
		t.Fatal(err)
	}
	const more = 100
	for range tracing.MaxQueue + more {
		_, span := traced.Start(t.Context(), "a span")
		span.End()
	}
	<-asked
	if n := testutil.CollectAndCount(metrics); n == 0 {
		t.Error("there is no metric")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := traced.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	wantCounts(t, metrics, tracing.MaxQueue+more, 0)
}

func TestNew_RefusesWhatIsNoCollector(t *testing.T) {
	for name, cfg := range map[string]tracing.Config{
		"no scheme":              {Endpoint: "127.0.0.1:4318"},
		"another scheme":         {Endpoint: "grpc://127.0.0.1:4317"},
		"a password in it":       {Endpoint: "http://user:secret@127.0.0.1:4318"},
		"a query in it":          {Endpoint: "http://127.0.0.1:4318/?token=1"},
		"what is no certificate": {Endpoint: "https://127.0.0.1:4318", CACertPEM: []byte("none")},
	} {
		cfg.Service = "test"
		if _, err := tracing.New(t.Context(), cfg); err == nil {
			t.Errorf("%s was taken", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v shows it", name, err)
		}
	}
}
