// Package rails is the only code of kas that talks RoR, in both directions.
//
// Client asks RoR's internal HTTP API: in go agent tokens, project names and statuses,
// out come gitlabapi's answers and errors. It signs every request, follows no redirect
// (credentials would go along), and bounds the rate of requests and the time and size of
// answers. Every error wraps one of gitlabapi's sentinels, so that callers can decide.
//
// Auth, AgentTracker and SyncStatus answer RoR's gRPC calls: every call but health checks
// and reflection must bear a token that RoR signed. What they answer comes from small
// interfaces, declared here. Of several kas that act as one RoR may ask and tell any:
// Everywhere hands commands to the one with the agent's stream, which does not hand them on,
// and Notifications are told to all others.
//
// Nothing in this package starts a goroutine or logs.
package rails
