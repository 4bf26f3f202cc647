// Package harness starts the whole system on real parts for the end-to-end tests
// and gives each test a corner of its own in it.
//
// An Env is one cluster, one Gitaly, one ror and one kas, shared by all tests of a
// package. A Fixture is one agent with a configuration project, a manifest project
// and a namespace, and its own agentk; fixtures do not see each other, so that
// tests run in parallel. All programs carry the race detector.
//
// Invariants: a test talks to the system as a user does (git, REST, the Kubernetes
// API); nothing is left running after Env.Stop; a program that dies or reports a
// data race fails the package.
package harness
