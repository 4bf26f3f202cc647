// Package process runs programs as children that can be stopped, killed and
// started again, which is what tests of faults, benchmarks and the demo do all day.
//
// In goes a Config: what to run, where its output goes and how to tell that it is
// ready. Out comes a Process whose Start returns when the program is ready, or an
// error that carries the tail of its log.
//
// Invariants:
//   - Nothing outlives its parent. A child gets SIGKILL when the process that
//     started it dies, even by kill -9 (Linux's parent-death signal).
//   - A child is in a process group of its own, so that Ctrl-C at a terminal
//     reaches the parent alone, and what the child leaves in its group when it
//     ends is killed with it.
//   - One run at a time: a Process is never started while it runs.
//   - Whoever asked for the end (Stop, Kill) is not told of it; any other end is a
//     failure and reaches Failed.
//
// Each run owns one goroutine, from Start until the child is reaped. It is locked
// to its thread, because the parent-death signal is sent when the thread that
// forked ends, not the process.
package process
