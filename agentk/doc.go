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
//	tunnel     answers what kas asks over the reverse tunnel: about the cluster, of its API
//	           server, and what is wrong with this process. Runs in every replica.
//	elector    takes the agent's Lease. Only its holder goes on:
//	manager    one worker per manifest project, started, stopped and restarted as
//	           the configuration changes.
//	worker     a connection (receives sets, sends reports, reconnects for ever)
//	           and a loop (runs the newest set, then watches it).
//	           Beside them, commands of people are carried out one after another, and
//	           commits compared with the cluster one at a time.
//
// Invariants:
//   - At most one worker writes for a manifest project, across replicas (the Lease)
//     and within one (the manager waits for a worker's end before its successor
//     starts, and two names of one project exclude each other).
//   - On the way out, workers end before the Lease is given up, and what they use
//     ends after them.
//   - kas away, or the API server away, ends nothing: everything is retried for
//     ever, with backoff, and what the cluster holds stays as it is.
//   - An object that moves from one manifest project to another is handed over: each
//     worker knows what the others' newest sets want (wants), and none deletes anything
//     before those are known, or ten seconds have passed.
//   - The newest set pre-empts the one at work; nothing else is queued.
//   - What people decide (suspended, deletions approved) is kept in the cluster, and a
//     project is not touched before it is known.
//   - With a state directory, an agent that is started while kas is away goes on with
//     what kas said last to the holder of this token, if nobody else has led since;
//     nothing is deleted for it. Where kas is there, kas is waited for.
package agentk
