package tracing

import (
	"slices"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// discreet leaves out why spans have failed: instrumentation takes that from errors, whose
// texts name objects, or quote what was refused. That they failed, and with which code,
// stays; logs say more.
func discreet(spans []sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	out := slices.Clone(spans)
	for i, span := range out {
		if span.Status().Description != "" {
			out[i] = silent{span}
		}
	}
	return out
}

type silent struct{ sdktrace.ReadOnlySpan }

// Status implements sdktrace.ReadOnlySpan.
func (s silent) Status() sdktrace.Status {
	return sdktrace.Status{Code: s.ReadOnlySpan.Status().Code}
}
