package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/tracing"
)

func TestTrace_ARequestIsOneOfItsOwn(t *testing.T) {
	t.Parallel()
	exporter := tracetest.NewInMemoryExporter()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "kas", Exporter: exporter})
	require.NoError(t, err)
	h := start(t, func(stream agentStream) error {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := respond(stream, http.StatusOK, "{}"); err != nil || first.GetHead().GetUrl() != "/broken" {
			return err
		}
		return status.Error(codes.Unavailable, "the API server broke off")
	}, func(c *Config) { c.Tracing = traced })
	ask := func(method, path string, headers ...string) {
		response, err := h.client.Do(h.request(method, path, nil, headers...))
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			require.NoError(t, response.Body.Close())
		}
	}
	ask(http.MethodGet, "/api/v1/namespaces/ns/secrets/mine?limit=1", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	// A POST: a GET whose reused connection ends before the answer's first byte
	// is sent again by the client's transport, as another request.
	ask(http.MethodPost, "/broken")
	ask("FOO", "/", "Authorization", "", "Authorization", "Bearer pat:7:bad")
	ask(http.MethodPost, "/", "Authorization", "", "Authorization", "Bearer pat:8:good")
	ask(http.MethodGet, "/api/v1/pods?watch=true")
	h.stop() // all have ended

	spans := exporter.GetSpans()
	var got []string
	for _, span := range spans {
		code := ""
		for _, a := range span.Attributes {
			require.NotContains(t, a.Value.String(), "mine")
			if a.Key == "http.response.status_code" {
				code = a.Value.String()
			}
		}
		got = append(got, fmt.Sprint(span.Name, " ", code, " ", span.Status.Code))
		require.False(t, span.Parent.IsValid(), "a stranger's trace was believed")
	}
	require.ElementsMatch(t, []string{
		"proxy GET 200 Unset", "proxy POST 200 Error", "proxy other 401 Unset", "proxy POST 503 Error",
	}, got, "a watch is none, and what broke off is an error")
	i := slices.IndexFunc(spans, func(s tracetest.SpanStub) bool { return s.Name == "proxy GET" })
	require.Subset(t, spans[i].Attributes, []attribute.KeyValue{tracing.AgentID(7), attribute.Int64("user_id", 5)})
}
