// Package kas is the server: it puts its rooms together and runs them.
//
//	agent listener   agents' configuration (kas/agents) and object sets (kas/push); by gRPC, or
//	                 by WebSocket (internal/wstransport)
//	api listener     what RoR asks (kas/rails): connected agents, sync status; of clusters (kas/state)
//	observability    metrics, probes, profiles
//
//	Gitaly -> kas/gitaly -> kas/push, kas/agents -> agents
//	agents -> kas/push -> kas/status -> kas/rails -> RoR
//	RoR -> kas/state -> kas/tunnel -> agents, and straight back
//
// The rooms do not know each other: Run hands each what it asked for by its interfaces.
//
// Run owns every goroutine. When its context ends it drains, within drainTime: it is no
// longer ready; RoR is told the statuses that are due; streams end with UNAVAILABLE, so that
// agents connect to another kas, or to the next one here; connections are closed.
package kas
