// Package control carries to kas what people want done in a cluster: sync now,
// suspend, resume, approve of deletions, and compare a commit with the cluster. The
// page and the REST API go through it, so that both find the manifest project, word
// failures and keep the record alike.
//
// In go a command, whose user the caller has found to be allowed to administer the
// agent, and which is checked here for all else; out comes nothing, a comparison, or
// an *Error with an HTTP status and words for people. Every command that was sent to
// kas is one line in the log: who wanted what of whom, and what came of it.
//
// The package starts no goroutine.
package control
