package tracing_test

import (
	"testing"

	"go.opentelemetry.io/otel/codes"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/kas-agentk/kas/internal/tracing"
)

func TestNew_TextsOfErrorsAreNotSent(t *testing.T) {
	collector := newReceiver(t)
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "test", Endpoint: collector.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, failed := traced.Start(t.Context(), "failed")
	failed.SetStatus(codes.Error, `secrets "mine" not found`)
	failed.End()
	if err := traced.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := collector.spans()["failed"].GetStatus()
	if got.GetCode() != otlp.Status_STATUS_CODE_ERROR || got.GetMessage() != "" {
		t.Errorf("the status is %v", got)
	}
}
