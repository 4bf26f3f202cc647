package harness

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector takes traces from programs, by OTLP/HTTP, as long as a test runs.
type Collector struct {
	// Endpoint is what the programs are told.
	Endpoint string

	mu    sync.Mutex
	spans []*Span
}

// Span is one that a program sent.
type Span struct {
	*tracepb.Span
	// Service is the program.
	Service string
}

// NewCollector starts one.
func NewCollector(tb testing.TB) *Collector {
	tb.Helper()
	c := &Collector{}
	server := httptest.NewServer(http.HandlerFunc(c.serve))
	tb.Cleanup(server.Close)
	c.Endpoint = server.URL + "/v1/traces"
	return c
}

func (c *Collector) serve(w http.ResponseWriter, r *http.Request) {
	request, err := exported(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range request.GetResourceSpans() {
		service := text(from.GetResource().GetAttributes(), "service.name")
		for _, scope := range from.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, &Span{Span: span, Service: service})
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // the empty answer is empty
}

func exported(r *http.Request) (*collectorpb.ExportTraceServiceRequest, error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("unzip spans: %w", err)
		}
		body = unzipped
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read spans: %w", err)
	}
	request := &collectorpb.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return nil, fmt.Errorf("decode spans: %w", err)
	}
	return request, nil
}

func text(attributes []*commonpb.KeyValue, key string) string {
	for _, a := range attributes {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// Attribute is an attribute of the span that is a text; empty: it has none.
func (s *Span) Attribute(key string) string { return text(s.GetAttributes(), key) }

// Says tells whether any attribute of the span, or its name, has the text in it.
func (s *Span) Says(what string) bool {
	return strings.Contains(s.GetName(), what) || strings.Contains(fmt.Sprint(s.GetAttributes(), s.GetEvents(), s.GetStatus()), what)
}

// Trace is all that has come of one trace.
type Trace []*Span

// TraceWith returns the trace that a span is part of which is as match wants it; nil: none
// has come.
func (c *Collector) TraceWith(match func(*Span) bool) Trace {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.spans, match)
	if i < 0 {
		return nil
	}
	return c.tracesLocked()[string(c.spans[i].GetTraceId())]
}

// Traces are all that have come, by their IDs.
func (c *Collector) Traces() map[string]Trace {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tracesLocked()
}

func (c *Collector) tracesLocked() map[string]Trace {
	traces := map[string]Trace{}
	for _, s := range c.spans {
		id := string(s.GetTraceId())
		traces[id] = append(traces[id], s)
	}
	return traces
}

// Find returns the span of a service with that name, the first if there are several; nil:
// there is none.
func (t Trace) Find(service, name string) *Span {
	for _, s := range t {
		if s.Service == service && s.GetName() == name {
			return s
		}
	}
	return nil
}

// Parent of a span; nil: it is not here, or the span is the root.
func (t Trace) Parent(of *Span) *Span {
	for _, s := range t {
		if bytes.Equal(s.GetSpanId(), of.GetParentSpanId()) {
			return s
		}
	}
	return nil
}

var errNoSpans = errors.New("no span has come")

// Whole returns an error unless every span but one has a parent that is here.
func (t Trace) Whole() error {
	if len(t) == 0 {
		return errNoSpans
	}
	root := (*Span)(nil)
	for _, s := range t {
		switch {
		case t.Parent(s) != nil:
		case len(s.GetParentSpanId()) > 0:
			return fmt.Errorf("%s: %s has lost its parent in\n%s", s.Service, s.GetName(), t)
		case root != nil:
			return fmt.Errorf("%s: %s is a second root of\n%s", s.Service, s.GetName(), t)
		default:
			root = s
		}
	}
	return nil
}

// Way returns an error unless the spans, each "service: name", are there and each is below
// the one before, if not directly.
func (t Trace) Way(names ...string) error {
	if !t.goes(nil, names) {
		return fmt.Errorf("nothing goes %q in\n%s", names, t)
	}
	return nil
}

// goes says whether there are such spans below one.
func (t Trace) goes(above *Span, names []string) bool {
	if len(names) == 0 {
		return true
	}
	return slices.ContainsFunc(t, func(s *Span) bool {
		return s.Service+": "+s.GetName() == names[0] && (above == nil || t.below(s, above)) && t.goes(s, names[1:])
	})
}

// below says whether a span is below another.
func (t Trace) below(s, above *Span) bool {
	for range t { // a circle would go on for ever
		if s = t.Parent(s); s == nil {
			return false
		}
		if s == above {
			return true
		}
	}
	return false
}

// String is the trace as a tree.
func (t Trace) String() string {
	var out strings.Builder
	var write func(s *Span, depth int)
	write = func(s *Span, depth int) {
		fmt.Fprintf(&out, "%s%s: %s\n", strings.Repeat("  ", depth), s.Service, s.GetName())
		for _, child := range t {
			if depth < len(t) && t.Parent(child) == s {
				write(child, depth+1)
			}
		}
	}
	for _, s := range t {
		if t.Parent(s) == nil {
			write(s, 0)
		}
	}
	return out.String()
}
