// Package push sends object sets to agents: it implements agentrpc.SyncServer.
//
// In come agents' streams, each for one manifest project; revisions and files from
// a Source; who may read what from an Access. Out go object sets to the streams, and
// to a Status what was found in Git and what the agents report.
//
// Between two sets, people's commands (Command) and sets that are only to be compared
// with the cluster (Compare) go to the streams, and the agents' answers back to who
// asked.
//
// Agents that ask for the same thing (repository, ref, paths, default namespace)
// share one feed: a goroutine that is told where the ref is, reads the files, builds
// the set and publishes it. The feed starts with its first stream and has ended when
// its last stream's Connect returns. Each stream has gRPC's own goroutine, which only
// waits, one that receives, and for as long as it takes one that does what the first
// or the second wants done (sends a set, takes a report, asks RoR, ...): see
// grpctool.Aside. Server.Run returns when all of them have ended.
//
// Invariants:
//   - The agent holds exactly the digests of the last whole set that it received;
//     before the first on a stream, those of its Hello. Both ends keep to this rule,
//     so kas need not remember more per stream than a pointer to the set sent last,
//     and an object that left the set and comes back is sent again.
//   - Newest wins: while a send is blocked, the feed's newer sets replace each
//     other, and only the last is sent next. A set once begun is finished, so that
//     an agent on a slow line makes progress however often people push.
//   - A slow agent delays nobody: streams share nothing but immutable sets.
//   - A set whose content the agent holds already is sent without objects (header,
//     refs, trailer), so that both ends agree on the commit.
//   - A command is about the newest set: what the feed has by then is sent before it.
//     Whoever waits for an agent's answer gets one at the latest when the stream or its
//     own deadline ends, and nobody else waits for it.
//   - A set that is to be compared changes nothing of what the agent holds.
//   - Messages of a kind that this kas does not know are skipped.
//   - A file whose blob did not change between two commits is not parsed again, and a
//     directory is rendered again only when something that rendering looked at did.
//   - Trouble that may pass, and mistakes in the repository, go to the Status and
//     leave the stream open; what the agent holds stays in force.
package push
