// Package demo is what "make demo" runs: the whole system on one machine, with a
// sample project that is in step with the cluster, until it is told to end.
//
// In goes a directory for state, and perhaps a kubeconfig; out come lines for
// people and, once the sample project is synced, a file "env" in the directory that
// a shell can source. Everything that is set up is kept in the directory, so that
// a second run goes on with it and is ready within seconds.
//
// Invariants:
//   - One demo at a time runs in a directory.
//   - Whatever ends a run, nothing that it started is left running.
//   - Each step looks whether it was done before; nothing is pushed twice, so what
//     a person has pushed since is safe.
//   - "env" is there only while the demo is ready.
//
// Run owns all goroutines.
package demo
