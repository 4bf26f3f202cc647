// Package agentk is the agent: it runs in a cluster that nobody can dial into, dials
// kas, and makes the cluster hold what kas sends.
//
// In come the agent's configuration and one object set after the other for each
// manifest project; out go objects to the API server and reports to kas.
//
// Who runs what (Agent.Run owns every goroutine, and has ended them all when it
// returns):
//
//	watcher    holds the configuration stream open and publishes the newest
//	           configuration. Runs in every replica.
//	elector    takes the agent's Lease. Only its holder goes on:
//	manager    one worker per manifest project, started, stopped and restarted as
//	           the configuration changes.
//	worker     a connection (receives sets, sends reports, reconnects for ever)
//	           and a loop (runs the newest set, then watches it).
//
// Invariants:
//   - At most one worker writes for a manifest project, across replicas (the Lease)
//     and within one (the manager waits for a worker's end before its successor
//     starts, and two names of one project exclude each other).
//   - On the way out, workers end before the Lease is given up, and what they use
//     ends after them.
//   - kas away, or the API server away, ends nothing: everything is retried for
//     ever, with backoff, and what the cluster holds stays as it is.
//   - The newest set pre-empts the one at work; nothing else is queued.
package agentk
