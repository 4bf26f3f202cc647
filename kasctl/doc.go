// Package kasctl is the command line for people and CI jobs: which agents there are,
// and how far each manifest project has come.
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
// The package starts no goroutine, keeps no state and writes nothing to RoR.
package kasctl
