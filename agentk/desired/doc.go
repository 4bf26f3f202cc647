// Package desired receives what kas wants the cluster to hold.
//
// In come the messages of a Sync.Connect stream; out go whole object sets, each
// checked: the digest of every object's bytes, the number of refs, that no ref names
// content that nobody sent, and that no two objects are the same.
//
// Invariants:
//   - The agent holds exactly the digests of the last whole set that it received:
//     kas keeps to the same rule and sends only what is lacking. A set that was cut
//     short, by a new header or the end of the stream, leaves what is held untouched.
//   - What is held survives reconnects. After a message that breaks the protocol it
//     is forgotten, so that the next hello asks for everything.
//   - What a peer sends cannot grow memory beyond Limits, and cannot panic.
//   - Newest wins: a Slot holds one value, and a newer one replaces it.
//   - A Store keeps the last good configuration and sets on disk, so that a cluster is
//     healed also by an agent that was started while kas is away. Nobody waits for its
//     disk, and a disk that is full or broken harms nothing else. What it restores has
//     passed a checksum and a Receiver; what is known not to be the newest, or may not
//     be, because somebody else led the agent meanwhile, is marked so.
//
// The package starts no goroutine. A Receiver belongs to the goroutine that reads
// the stream; a Slot and a Store may be used by any number of goroutines. Store.Run
// writes in its caller's.
package desired
