// Package diagnose finds out why an agent does not do what it should
// (railsrpc.AgentDiagnostics).
//
// In comes RoR's question about one agent; out goes an answer with the facts, from whoever
// knows them, and the verdicts about them (judge), which are a pure function of the facts:
//
//	this kas and the others   connections, streams of the tunnel, how connections ended,
//	                          and a few pings, of each kas that has the agent
//	kas/status                the agent's configuration, and its projects
//	the agent                 what it says of itself and of its cluster, by whichever kas
//
// Invariants:
//   - The answer comes within Config.Timeout, whoever is away or silent. What could not be
//     found out is part of it.
//   - An agent that is away is not waited for.
//   - What other kas ask (Server.Local) is answered from this kas alone: nothing runs in
//     circles. Pings are sent by the kas that has the agent, so that their time is that
//     between it and the agent.
//   - Every verdict but OK says what to do.
//
// The package starts no goroutine that outlives a call.
package diagnose
