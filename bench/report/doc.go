// Package report keeps the results of a run of the benchmarks and writes them for
// machines (JSON) and for people (Markdown).
//
// In go figures of single runs; out come medians with their spread, the share of the
// raw limit, and a verdict on each budget of the project.
package report
