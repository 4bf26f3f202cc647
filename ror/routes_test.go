package ror

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/ror/githttp"
	"github.com/kas-agentk/kas/ror/page"
)

func TestTracer_NamesRoutesOfHandlersThatPanic(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	traces, err := tracing.New(t.Context(), tracing.Config{Service: "ror", Exporter: exporter})
	require.NoError(t, err)
	cut := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	measured, err := newRequests(prometheus.NewRegistry())
	require.NoError(t, err)
	git := tracer(traces)(measured.of("githttp", withPattern(cut, githttp.Pattern)))
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/group/app.git/git-receive-pack", http.NoBody)
	require.PanicsWithError(t, http.ErrAbortHandler.Error(), func() { git.ServeHTTP(httptest.NewRecorder(), request) })
	const route = "/{project}.git/git-receive-pack"
	require.InDelta(t, 1, testutil.ToFloat64(measured.count.WithLabelValues(route, "200")), 0)
	require.Contains(t, exporter.GetSpans()[0].Attributes, attribute.String("url.path", route))
}

func TestTracer_NamesRoutesAndNothingElse(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	traces, err := tracing.New(t.Context(), tracing.Config{Service: "ror", Exporter: exporter})
	require.NoError(t, err)
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	rest, pages := http.NewServeMux(), http.NewServeMux()
	rest.Handle("GET /api/v4/projects/{id}/{resource}/{name}", nothing)
	pages.Handle("GET /-/sign_in", nothing)
	pages.Handle("/", nothing)
	mux := http.NewServeMux()
	mux.Handle("/api/", rest)
	mux.Handle("POST /api/v4/internal/post_receive", nothing)
	mux.Handle("/", withPattern(pages, page.Pattern))
	traced := tracer(traces)
	other, git := traced(mux), traced(withPattern(nothing, githttp.Pattern))
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, row := range []struct {
		name, method, path string
		header, value      string
		// span is "method route below"; empty: there is none.
		span string
	}{
		{"REST", "GET", "/api/v4/projects/7/pods/my-pod?namespace=mine", "", "", "GET /api/v4/projects/{id}/{resource}/{name} "},
		{"REST, from somebody who says of a trace", "GET", "/api/v4/projects/7/pods/my-pod", "traceparent", parent, "GET /api/v4/projects/{id}/{resource}/{name} "},
		{"the internal API, from kas", "POST", "/api/v4/internal/post_receive", "traceparent", parent, "POST /api/v4/internal/post_receive b7ad6b7169203331"},
		{"a watch", "GET", "/api/v4/projects/7/pods/my-pod?watch=true", "", "", ""},
		{"a page of its own", "GET", "/-/sign_in", "", "", "GET /-/sign_in "},
		{"a project", "GET", "/group/app", "", "", "GET /{project} "},
		{"an agent", "GET", "/group/app/-/cluster_agents/prod", "", "", "GET /{project}/-/cluster_agents/{name} "},
		{"an agent that is called as a word is", "GET", "/group/app/-/cluster_agents/cluster", "", "", "GET /{project}/-/cluster_agents/{name} "},
		{"an object", "GET", "/group/app/-/cluster_agents/prod/cluster/object?name=my-pod", "", "", "GET /{project}/-/cluster_agents/{name}/cluster/object "},
		{"a token", "POST", "/group/app/-/cluster_agents/prod/tokens/5/revoke", "", "", "POST /{project}/-/cluster_agents/{name}/tokens/{name}/revoke "},
		{"what is not there", "GET", "/group/app/-/cluster_agents/a/b/c/d/e/f", "", "", "GET /{project}/-/{unknown} "},
		{"nor this", "GET", "/group/app/-/issues/1", "", "", "GET /{project}/-/{unknown} "},
		{"a fetch begins", "GET", "/group/app.git/info/refs?service=git-upload-pack", "", "", "GET /{project}.git/info/refs "},
		{"a push", "POST", "/group/app.git/git-receive-pack", "", "", "POST /{project}.git/git-receive-pack "},
		{"a hook of a push that is traced", "POST", "/api/v4/internal/post_receive", "X-Request-ID", parent, "POST /api/v4/internal/post_receive b7ad6b7169203331"},
		{"a hook of a push that is not", "POST", "/api/v4/internal/post_receive", "X-Request-ID", "01HQ4Z", ""},
		{"a hook that says nothing", "POST", "/api/v4/internal/post_receive", "", "", ""},
		{"a probe", "GET", "/-/readiness", "", "", ""},
		{"metrics", "GET", "/-/metrics", "", "", ""},
		{"a picture", "GET", "/-/assets/a.svg", "", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			exporter.Reset()
			request := httptest.NewRequestWithContext(t.Context(), row.method, row.path, http.NoBody)
			if row.header != "" {
				request.Header.Set(row.header, row.value)
			}
			handler := other
			if githttp.NewServer(githttp.Config{}, nil, nil).Handles(request) {
				handler = git
			}
			handler.ServeHTTP(httptest.NewRecorder(), request)
			spans := exporter.GetSpans()
			if row.span == "" {
				require.Empty(t, spans)
				return
			}
			require.Len(t, spans, 1)
			below := ""
			if spans[0].Parent.IsValid() {
				below = spans[0].Parent.SpanID().String()
			}
			require.Equal(t, row.span, spans[0].Name+" "+below)
			require.NotRegexp(t, "my-pod|group|namespace", fmt.Sprint(spans[0].Attributes))
		})
	}
	require.Same(t, mux, tracer(nil)(mux), "off")
}
