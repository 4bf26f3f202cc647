// Package inventory knows what a project has put into a cluster.
//
// An Inventory is a set of object IDs, each with an Entry: the digest that was
// last applied, the hash of the fields that we owned afterwards, and whether its
// deletion waits for a person. It is stored in ConfigMaps, a few tens of kilobytes
// each (shards), so that its size has no ceiling, and a smaller one for what has
// changed lately, so that a small change costs a small write. The format is that of
// cli-utils: the same label, the same keys. An inventory written by cli-utils is
// read and taken over, and a shard of ours can be read by cli-utils.
//
// Invariants:
//   - Save never loses an ID, wherever it is interrupted: what moves to another
//     shard is written there before it is removed here.
//   - Every write is conditional on nobody else having written (ErrConflict).
//   - What cannot be read as an entry is kept as it is.
//
// The package has no goroutines beyond a Save call and no locks: an Inventory
// belongs to one goroutine at a time.
package inventory
