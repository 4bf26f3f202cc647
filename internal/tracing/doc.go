// Package tracing is the OpenTelemetry of a program: what it does for one commit or one
// query becomes spans, which other programs' spans join by W3C trace context.
//
// In come spans, and the trace contexts of other programs: in HTTP headers and gRPC
// metadata by what Transport, Handler, DialOptions and ServerOptions add, and in fields of
// messages by Traceparent and WithTraceparent, for what is said on long streams. Out go the
// spans, by OTLP/HTTP, to the collector of Config.Endpoint.
//
// Invariants:
//   - Without an endpoint, and for a nil *Tracing, nothing is traced: Transport and Handler
//     return what they were given, the options are empty, and Start starts nothing and
//     allocates nothing.
//   - There are no globals: who traces has a *Tracing.
//   - A collector that is away or slow holds nobody up and fails nothing. What waits to be
//     sent is bounded (MaxQueue); spans beyond that, and those that the collector does not
//     take, are lost. They are counted, and logged once a minute at most.
//   - What is sent outside of a trace begins none: a program's polls and timers would drown
//     what people look for. Traces begin where a request comes in, or with Start.
//   - RPCs and requests that live for hours (watches, tunnels, upgraded connections) are no
//     spans: those would be seen only when all is over. What is done on them has its own.
//   - What a peer says of a trace is taken only if it is W3C trace context to the letter.
//
// Which traces are recorded is decided where they begin, and kept to by all who join:
// all, unless the environment says otherwise by OTEL_TRACES_SAMPLER and
// OTEL_TRACES_SAMPLER_ARG.
//
// New starts the one goroutine, which sends; it has ended when Shutdown returns.
package tracing
