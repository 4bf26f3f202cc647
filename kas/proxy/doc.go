// Package proxy is kas's end of the Kubernetes API proxy: people, CI jobs and RoR's pages
// reach the API servers of agents' clusters by HTTP, though nobody can dial those.
//
// In come HTTP requests for <URLPathPrefix><path of the Kubernetes API>, each with one
// credential (credentials.go). RoR says whom it belongs to, whether that one may use the
// agent, and as whom the agent asks the cluster; what RoR says is believed for a while.
// Out goes one agentrpc.KubernetesApi/Do for each request, on the connection that an Agents
// has for the agent; what comes back is answered as it comes. What kas itself answers, and
// not the cluster, is a Status as the Kubernetes API has it, so that clients show what is
// wrong and what to do.
//
//	HTTP -> origin -> credential -> RoR (cached) -> rate limit -> impersonation -> Do
//
// # Invariants
//
//   - No credential crosses to an agent: neither that which kas was shown, nor cookies, nor
//     headers by which an API server believes who somebody is (headers.go).
//   - As whom the agent asks is decided by RoR's answer alone. Where that is not the agent
//     itself nobody becomes a third by headers of their own (kubectl --as).
//   - Secrets are kept as hashes: of what was asked of RoR, only a SHA-256 is remembered.
//   - Bodies stream, both ways and independently; of each direction at most a message or two
//     is held here, and of what goes to a client by TLS two batches beside (batch.go). A client
//     that does not read holds up its own stream of the tunnel.
//   - An answer that breaks off breaks the client's connection (or HTTP/2 stream): a part of
//     an answer is never taken for the whole.
//   - A request ends the agent's RPC when it ends, however it ends.
//   - RoR being away is no refusal: nothing is remembered of it.
//   - Requests that last (watches, logs that are followed, upgraded connections) are authorised
//     anew time and again, and end when RoR refuses.
//
// # Goroutines
//
// A request runs in net/http's goroutine, which writes the answer. One more receives it from
// the agent while this one writes, one sends the body, if there is one, and one rechecks a
// request that lasts; all end before the request does. An upgraded connection has two, for its
// two directions, and the one that rechecks. A TLS connection has one while batches of records
// wait for it. A question to RoR has a goroutine, because several requests may wait for it; it
// ends by RoR's client.
// Server.Run serves a listener and returns when all its requests have ended: when its context
// ends, watches and upgraded connections are ended at once, others have DrainGrace.
package proxy
