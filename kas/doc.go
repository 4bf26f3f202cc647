// Package kas is the server: it puts its rooms together and runs them.
//
//	agent listener   agents' configuration (kas/agents) and object sets (kas/push); by gRPC, or
//	                 by WebSocket (internal/wstransport)
//	api listener     what RoR asks (kas/rails): connected agents, sync status; of clusters (kas/state);
//	                 what is wrong with an agent (kas/diagnose)
//	kubernetes_api   people and CI jobs who reach agents' clusters by HTTP (kas/proxy)
//	private_api      other kas who call for agents that are here (kas/private); with Redis
//	observability    metrics, probes, profiles
//
//	Gitaly -> kas/gitaly -> kas/push, kas/agents -> agents
//	agents -> kas/push -> kas/status -> kas/rails -> RoR
//	RoR -> kas/state -> kas/tunnel -> agents, and straight back
//	kubectl -> kas/proxy -> kas/tunnel -> agents, and straight back
//
//	kas/tunnel -> kas/private -> another kas -> kas/tunnel, for agents that are not here
//
// Several kas that act as one have kas/replicas besides, what they share on Redis; one that
// is alone has nothing of it running. presence tells the others who is connected here.
//
// The rooms do not know each other: Run hands each what it asked for by its interfaces.
//
// There are many agents, and most of what kas needs for each are stacks of goroutines that
// wait. Handlers of agents' streams have few frames below them (agentStreams), do nothing but
// wait, and have what goes deep done by goroutines that end (grpctool.Aside). A process that is
// kas alone collects garbage the sooner the larger it is, and gives memory back to the system
// when many agents have come or gone (memoryKeeper).
//
// Run owns every goroutine. When its context ends it drains, within drainTime: it is no
// longer ready; RoR is told the statuses that are due; other kas, that nobody is here any
// more; streams end with UNAVAILABLE, so that agents connect to another kas, or to the next
// one here; connections are closed.
package kas
