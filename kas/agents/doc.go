// Package agents knows kas's agents: who they are, which are connected, and how each is
// configured.
//
// Access turns agent tokens into agents and project names into projects, by asking RoR and
// remembering its answers for a while. Registry lists the open connections, and
// remembers how earlier ones ended. Server
// implements agentrpc.AgentConfigurationServer: it follows the file
// .gitlab/agents/<name>/config.yaml on the default branch of each connected agent's
// configuration project, and hands what it says to the agent, to RoR and to a Status.
//
// Invariants:
//   - A refusal by RoR takes effect within Access's time to live: streams that are open
//     then end with UNAUTHENTICATED or PERMISSION_DENIED. While RoR cannot be asked, an
//     agent that it vouched for within StaleFor is still served, all others get UNAVAILABLE.
//   - Tokens are kept as hashes. What is remembered is bounded in number.
//   - All replicas of an agent share one feed: one follower of the repository, one parse.
//     The feed starts with the first stream and has ended when the last Watch returns.
//   - Agents are only ever sent configurations that parse, with GitLab's defaults filled in.
//     A broken file leaves the last good one in force and its mistake, with line, goes to
//     the Status. kas keeps the last good one in memory; after a restart it takes it from
//     the commit that the agent says it holds, and where that fails too, sends nothing: the
//     agent goes on with what it has.
//   - A missing file is an empty configuration, and the Status says which file to create.
//
// An open Watch has gRPC's own goroutine, which only waits, and another for as long as there
// is something to do (grpctool.Aside): a configuration to send, or RoR to ask about the token. A feed
// has one while it reads a file or tells RoR; all have ended when the last Watch returns.
package agents
