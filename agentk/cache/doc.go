// Package cache keeps what agentk needs to know of the cluster's objects: one shared
// informer per resource, whatever the number of projects that look at it.
//
// In go resources to follow (Ensure); out come objects at no cost (Get) and word of
// every change (Subscribe). An object is kept without what nobody needs: its
// managedFields are replaced by the hash of those that we own, and of ConfigMaps and
// Secrets only the metadata ever leaves the API server. The rest is kept as JSON,
// which takes a fraction of the memory of an object that is decoded.
//
// Invariants:
//   - One resource that cannot be listed or watched fails alone.
//   - Ensure does not report success for a resource whose objects are not, or no
//     longer, known.
//   - What Get returns is shared and never changes.
//
// Run owns all goroutines. Callbacks come from the informers' goroutines and from
// those that call Ensure. They must not block.
package cache
