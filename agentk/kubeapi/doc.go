// Package kubeapi is the agent's end of the Kubernetes API proxy: it makes HTTP requests of
// people and CI jobs, which kas has let in, to the API server of the agent's cluster.
//
// In come RPCs of agentrpc.KubernetesApi over the reverse tunnel, one for each HTTP request,
// and by Configure which Services may be reached through the API server. Out go requests
// with the agent's own credentials, in the name of whom kas says (Impersonate-* headers),
// and their answers, whatever the API server says. RBAC decides about everything but what
// "Services" below says.
//
// # A request
//
//  1. Its head is checked and made a request (request.go, headers.go, path.go). What cannot
//     be made is INVALID_ARGUMENT.
//  2. Its path is asked for the API server's proxy (services.go).
//  3. It is made. A body of known and small size is read first, so that the request can be
//     repeated on another connection where the API server has not begun with it (GOAWAY);
//     others stream.
//  4. The head of the answer goes to kas at once, and the body as it comes (answer.go).
//     After 101 both directions go on independently of each other (upgrade.go).
//
// # Services
//
// The API server can be asked to connect to a Service, a pod or a node's kubelet
// (…/proxy/…), with the API server's own network reach. Services are let through where the
// configuration names them, pods and nodes never, and nothing is before there is a
// configuration. The decision is made on the decoded path, as the API server makes it. A
// path that some server between could read in another way (dot segments, doubled slashes,
// encoded twice) goes to nobody.
//
// # Invariants
//
//   - A request that says whom to impersonate is never made as the agent itself; nor is one
//     made in another name where agentk itself runs with --as.
//   - Credentials, Impersonate-* and X-Remote-* headers, and what concerns one connection
//     only never come from the wire, though kas has taken them out before. Cookies of
//     answers do not leave the cluster.
//   - The URL is that of the agent's kubeconfig, and below its path. Redirects are not
//     followed. A body is what the client has sent: one that breaks off never looks whole.
//   - An exchange keeps at most one buffer of answerSize for each direction. While kas does
//     not take the answer nothing more is read, so that the API server is held back. The
//     connection of a log or a Service's answer has one of aheadSize beside (bulk.go).
//   - There is no limit of time but for connecting. The end of the RPC's context ends the
//     request and its connection, or its stream of one.
//   - Protocols after 101 are the API server's: WebSocket and SPDY. Other wishes are
//     ignored, as HTTP lets a server do; h2c could carry requests that nobody checks.
//
// # Goroutines
//
// Do runs in the goroutine of its caller. While it does, one other reads what the client
// sends: net/http's, or after 101 one of this package. It ends when it has read everything,
// or with the RPC's context, which gRPC and the tunnel end as soon as Do has returned.
// Connections have net/http's own goroutines, until Close.
package kubeapi
