// Package gitaly is RoR's way to Gitaly: it makes repositories and carries Git's
// smart HTTP protocol to and from them.
//
// In go projects and byte streams; out come byte streams and ErrUnavailable, where
// Gitaly does not answer. Nothing is buffered beyond one chunk. The connection is
// made when it is first needed and again whenever it broke, so RoR may start before
// Gitaly and outlive it.
//
// A project whose repository is missing (RoR ended between writing the project down
// and making its repository) gets it when it is first asked for.
package gitaly
