package kubeapi

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/kas-agentk/kas/internal/tracing"
)

// answers is an API server that answers so.
type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func TestExchange_IsPartOfTheTraceThatKasSays(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "agentk", Exporter: exporter})
	require.NoError(t, err)
	e := &exchange{server: &Server{tracing: traced}, method: http.MethodGet}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api/api/v1/namespaces/ns/secrets/mine", http.NoBody)
	require.NoError(t, err)
	found := answers(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody}, nil
	})
	away := answers(func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") })

	response, err := e.roundTrip(t.Context(), found, request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Empty(t, exporter.GetSpans(), "kas does not trace it")

	ctx := tracing.WithTraceparent(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	response, err = e.roundTrip(ctx, found, request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	_, err = e.roundTrip(ctx, away, request) //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "refused")
	spans := exporter.GetSpans()
	require.Len(t, spans, 2)
	for _, span := range spans {
		require.Equal(t, "Kubernetes API GET", span.Name)
		require.Equal(t, "b7ad6b7169203331", span.Parent.SpanID().String())
	}
	require.Equal(t, []attribute.KeyValue{attribute.Int("http.response.status_code", http.StatusNotFound)}, spans[0].Attributes)
	require.Equal(t, otelcodes.Error, spans[1].Status.Code)
}
