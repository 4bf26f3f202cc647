// Package kasctl is the command line for people and CI jobs: which agents there are,
// how far each manifest project has come, what a commit would change, what is in
// clusters, kubeconfigs that reach them through kas, why an agent does not do what it
// should, and commands to sync, suspend, resume, and approve of deletions.
//
// In come RoR's REST API (its address and a personal access token from flags or the
// environment); out go tables, JSON or YAML on standard output, sorted and stable,
// and an exit status that a CI job can act on:
//
//	0  done; with --exit-code or --wait: everything is synced
//	1  it could not be done; standard error says why and what to do
//	2  called wrongly
//	3  with --exit-code or --wait: something is not synced
//
// diff has statuses of its own, as kubectl diff: 0 nothing would change, 1 something
// would, 2 it could not be compared, 3 the commit is at fault.
//
// The package starts no goroutine and keeps no state, besides the kubeconfigs that it is
// told to write; RoR decides who may do what.
package kasctl
