// Package contender holds what is compared, each behind the same small interface,
// and the protocol by which each runs in a process of its own.
//
//	raw       the limit: 64 requests in flight from a bare HTTP client
//	ours      gitops.Run over agentk/cluster and agentk/cache, as agentk wires them
//	cli-utils the stock apply.Applier of sigs.k8s.io/cli-utils
//	flux-ssa  the ResourceManager of github.com/fluxcd/pkg/ssa
//
// In go objects; out come how long it took, CPU time and memory. The parent process
// (Start) writes one command a line, the child (Serve) answers with one line each.
//
// Invariants:
//   - All contenders get the same objects, the same API server, the same kind of
//     connection (client-go's defaults: one HTTP/2 connection, TLS, a bearer token)
//     and no client-side rate limit. Their requests are told apart by user agent.
//   - Reading and decoding the objects is not timed. Nor is connecting: each has
//     synced one ConfigMap of another project before it is measured.
//   - The clock stops when the last object is settled: accepted, found unchanged, or
//     deleted. What a contender waits for afterwards is not counted as time, but its
//     CPU and its requests are.
//   - A contender that fails to sync an object has no figure.
package contender
