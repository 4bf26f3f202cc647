package tracing_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is an OTLP/HTTP collector.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	got      []*otlp.ResourceSpans
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		unzipped, err := gzip.NewReader(request.Body)
		if err != nil {
			t.Errorf("not gzip: %v", err)
			return
		}
		body, err := io.ReadAll(unzipped)
		if err != nil {
			t.Error(err)
			return
		}
		message := &collector.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(body, message); err != nil {
			t.Error(err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests = append(r.requests, request)
		r.got = append(r.got, message.GetResourceSpans()...)
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(r.Close)
	return r
}

// spans are all that came, by name.
func (r *receiver) spans() map[string]*otlp.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]*otlp.Span)
	for _, resource := range r.got {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				all[span.GetName()] = span
			}
		}
	}
	return all
}
