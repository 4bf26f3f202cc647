// Package gitops is the sync engine: it brings a cluster to what a commit wants.
//
// In go a Project (how to sync), a Desired (the objects of a commit) and a Cluster
// (a small interface to the API server, implemented by agentk/cluster); out come
// calls of an Observer, object by object, and a Result.
//
//	result, err := gitops.Run(ctx, cluster, project, desired, observer)
//	if err == nil {
//		err = gitops.Watch(ctx, cluster, project, result, observer, gitops.WatchConfig{
//			Clock: clock.RealClock{}, OnReadiness: func(gitops.Readiness) { … },
//		})
//	}
//
// Plan decides and is pure: no clock, no I/O. Run carries a plan out. Watch follows
// the health of what Run left behind until its context ends.
//
// Invariants:
//   - An object's ID is in the inventory before the object is sent to the API
//     server, and leaves it only when the object is seen to be gone or no longer
//     ours. So the inventory names everything that exists because of us, whenever
//     the process dies.
//   - An object that is recorded as applied, and whose live object shows our
//     ownership as our last apply left it, costs no request.
//   - Nothing is pruned for a set that is not Complete, nor for an empty set unless
//     Project.AllowEmpty, nor what does not carry our owning-inventory annotation.
//   - One object, or one kind, that fails fails alone. Run returns an error only for
//     what stops everything; every such error is worth another try with backoff
//     (errors.Is ErrUnavailable: the API server cannot be reached), except that
//     the end of ctx is returned as ctx's own error.
//   - The end of ctx pre-empts between two requests, never in the middle of one.
//     What was done until then is recorded.
//
// Run starts goroutines for requests in flight and returns when all have ended; it
// calls the Observer from its own goroutine alone, and so does Watch.
package gitops
