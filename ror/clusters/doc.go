// Package clusters answers people's questions about what is in the clusters of agents:
// one object, a list, a watch, and a list over many agents; and about why an agent does not
// do what it should (Diagnose). The page and the REST API
// go through it, so that both name resources, bound answers and word failures alike.
//
// In go an agent that the caller has found the user to be allowed to see, and a
// question; out comes kas's answer, or a *kasapi.Error whose message is for people. An
// agent that is not connected is told at once, without waiting for it.
//
// Invariants: an answer is whole or an error, never a part that looks like all of it;
// nothing larger than maxAnswer is kept in memory. The package starts no goroutine.
package clusters
