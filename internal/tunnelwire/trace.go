package tunnelwire

import (
	"strings"

	"go.opentelemetry.io/otel/trace"
)

const (
	keyTraceparent = "traceparent"
	keyTracestate  = "tracestate"
	// maxTracestate is as long as a tracestate may be, in bytes: as W3C has it.
	maxTracestate = 512
)

// valueCrosses says whether a value may cross: W3C trace context to the letter, for other
// programs believe it, and of other keys what is not too long.
func valueCrosses(key, value string) bool {
	switch key {
	case keyTraceparent:
		return isTraceparent(value)
	case keyTracestate:
		if len(value) > maxTracestate {
			return false
		}
		_, err := trace.ParseTraceState(value)
		return err == nil
	default:
		return len(value) <= maxValue
	}
}

// isTraceparent says whether a value is a traceparent of W3C's version 00: what this project
// sends.
func isTraceparent(value string) bool {
	const version, length, traceEnd, spanEnd = "00-", 55, 35, 52
	if len(value) != length || !strings.HasPrefix(value, version) || value[traceEnd] != '-' || value[spanEnd] != '-' {
		return false
	}
	_, err := trace.TraceIDFromHex(value[len(version):traceEnd])
	if err == nil {
		_, err = trace.SpanIDFromHex(value[traceEnd+1 : spanEnd])
	}
	return err == nil && strings.Trim(value[spanEnd+1:], "0123456789abcdef") == ""
}
