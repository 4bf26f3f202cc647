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
// the health of what Run left behind until its context ends, and puts right, object by
// object, what somebody else changes.
//
// Diff tells what a Run would do, by asking the API server for dry runs.
//
// Invariants:
//   - An object's ID is in the inventory before the object is sent to the API
//     server, and leaves it only when the object was seen to go, the API server says
//     that it is not there, or it is no longer ours. So the inventory names everything
//     that exists because of us, whenever the process dies.
//   - An object that is recorded as applied, and whose live object shows our
//     ownership as our last apply left it, costs no request.
//   - Nothing is pruned for a set that is not Complete, nor for an empty set unless
//     Project.AllowEmpty, nor what carries the mark of another inventory. What carries
//     none is pruned as the inventory policy says (see mayRemove).
//   - Much is not deleted without a person: what the Guard stops is marked in the
//     inventory and stays held, whatever later commits add, until its deletion is
//     approved of for the commit at hand or it comes back. A project that shrinks in
//     several commits, each under the limit, is not stopped. Nor are a namespace or a
//     CRD deleted with which something would go that the project does not prune
//     itself; where that cannot be found out, it is taken for so.
//   - What is deleted is what was seen: the same object, still ours.
//   - An object that another project of the agent wants (Project.Others) is not
//     deleted. It stays on the inventory until the other has taken it over, so that
//     at every moment one inventory names it.
//   - One object, or one kind, that fails fails alone. Run returns an error only for
//     what stops everything; every such error is worth another try with backoff
//     (errors.Is ErrUnavailable: the API server cannot be reached), except that
//     the end of ctx is returned as ctx's own error.
//   - An object that the API server throttles is sent again, with fewer requests in
//     flight; what may pass in a moment is tried again within a second. All else that
//     fails waits for the next Run.
//   - An atomic project's commit is first tried out by a dry run of the API server; if
//     it refuses anything, nothing is written.
//   - An object is deleted to be created anew only where its manifest asks for that.
//   - No error, and no status, carries a value of a Secret.
//   - The end of ctx pre-empts between two requests, never in the middle of one.
//     What was done until then is recorded.
//   - What was applied is recorded before anything is deleted and when Run returns; with
//     Project.RecordLate, when the Watch after it begins, so that nobody who waits for a
//     commit waits for that as well. A process that dies before applies it once more.
//   - What Watch heals is on the inventory since before it was first applied; that it
//     shows another ownership afterwards is recorded within a second, and at the
//     latest when Watch ends. A process that dies before applies it once more.
//   - An object that is changed again and again is healed ever more slowly, two
//     times a minute in the end, and delays no other. While that goes on, the heals
//     are not recorded by themselves, but with other changes, when the quarrel is
//     over, or when Watch ends; so a quarrel costs no writes beyond its applies, and
//     a process that dies meanwhile applies the object once more, as above.
//
// Run starts goroutines for requests in flight and returns when all have ended; it
// calls the Observer from its own goroutine alone, and so does Watch.
package gitops
