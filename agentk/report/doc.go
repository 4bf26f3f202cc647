// Package report tells kas how the sync of one manifest project goes.
//
// In comes what the engine says of objects (Reporter is a gitops.Observer) and what
// the sync loop says of runs and of who suspended them; out go agentrpc.Reports to whichever stream is open.
//
// Invariants:
//   - Telling a Reporter something never waits for the stream. What the stream has
//     not taken yet is coalesced: only the newest status of each object is kept.
//   - Memory is bounded by the objects of the project: nothing is queued.
//   - The first report on a stream is whole (reset); later ones carry only changes.
//   - The first change goes out at once, further ones at most once per Interval.
//   - An object that a finished run did not mention is no longer part of the project.
//
// The package starts no goroutine: Stream runs in its caller's, one at a time, all
// other methods in anyone's.
package report
