// Package rest serves RoR's public REST API under /api/v4: users, projects, members,
// agents, their tokens, and sync statuses, with commands to sync, suspend, resume,
// approve of deletions and compare; why an agent does not do what it should (doctor); and
// what is in clusters, as lists, objects and watches. CI jobs can be started and finished, for the sake of their tokens; nothing runs
// them. Names and shapes are GitLab's; what is ours beyond them (connections of agents,
// sync_status, doctor, cluster_state, starting jobs) is additional fields and endpoints.
//
// Who calls is known by a personal access token (header PRIVATE-TOKEN, or
// Authorization: Bearer); browser sessions are not accepted here, so other sites
// cannot borrow them. A project that the caller may not see is 404, like one that
// does not exist; what the caller may see but not do is 403.
//
// The package starts no goroutine but those of package stream, which end with their
// request.
package rest
