// Package state answers what RoR asks about clusters: it serves railsrpc.ClusterState and
// asks agents (agentrpc.ClusterQuery) over a Tunnel.
//
// In come RoR's requests and agents' answers, out go agents' answers: encoded as they
// came, because kas has no use for what is in them. Of a request no more is read than
// which agent it is for; of a message of a watch its fields one level deep, and of items
// their keys. So the server must take *grpctool.Raw (grpctool.RawCodec), and so does the
// Tunnel.
//
// # Get, List, ListFleet
//
// Get and List are one call each to the agent, with a deadline in any case. ListFleet
// makes the call of List to many agents, a bounded number at a time. Each holds one part
// of an answer at most, and asks for the next when RoR has taken that one: HTTP/2 flow
// control reaches through to the agents. The agents' deadline is before RoR's, so that
// there is time to report who is late; who does not begin to answer is given up earlier,
// so that silent agents do not take the others' turns.
//
// # Watch
//
// Watchers who ask the same of the same agent share one watch over the tunnel. kas keeps
// what that one has told (a map of encoded items, as of its newest message) and a short
// log of the newest messages. A newcomer is told all of the map, and then the log from the
// place where the map was copied: the copy and the place are taken under one lock, so
// nothing is missing and nothing told twice. Each watcher reads the log at its own pace
// from its own goroutine, and nobody waits for it; one that has fallen behind the log
// begins anew, and one that does so again and again is ended (RESOURCE_EXHAUSTED).
//
// A watcher that comes back with a cursor goes on in the log after the message that has
// this cursor. The agent made the cursor and says what it means: what comes after it, for
// this query. So two streams of the same query that have shown the same cursor go on
// with the same events, and comparing for equality is enough; nothing else is done with
// cursors. If the log does not have it (this kas has just started, say), the watcher gets
// a watch of its own over the tunnel, opened with the cursor, and leaves it for the log as
// soon as that has the cursor of the watcher's newest message. Few do this at a time, and
// who cannot for some seconds begins anew. If the agent does not know the cursor either
// and begins anew, so does the watcher, with the shared watch.
//
// What is kept is bounded, for each watch and for all together. A watch that would take
// more is not shared: its watchers get watches of their own, which begin at the cursors
// where they are.
//
// A watch over the tunnel that breaks is opened again with its newest cursor, and its
// watchers notice nothing but a pause, unless it lasts too long. When the agent begins
// anew, nobody is told before all has been told to kas; then all watchers begin anew.
//
// The texts of ages in tables are as of the moment when the agent sent them. Those in the
// map are computed again for each newcomer.
//
// # Goroutines
//
// Each RPC has gRPC's. Server.Run owns those that read shared watches, and the one that
// ends these when their last watcher has been gone for a while. A watcher with a watch of
// its own has one more, which ends before its RPC does; so do those of ListFleet.
package state
