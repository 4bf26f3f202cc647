// Package cache keeps what agentk needs to know of the cluster's objects: one shared
// informer per resource, whatever the number of projects that look at it and of people
// who ask.
//
// For the engine, in go resources to follow (Ensure); out come objects at no cost (Get)
// and word of every change (Subscribe). An object is kept without what nobody needs: its
// managedFields are replaced by the hash of those that we own, and of ConfigMaps and
// Secrets only the metadata ever leaves the API server. The rest is kept as JSON,
// which takes a fraction of the memory of an object that is decoded.
//
// For questions, in goes a resource and what is wanted of its objects (View); out comes
// an objects.View. Whole objects and metadata are those that the engine has, where it
// has them. Tables, and what the engine never asks for (the data of ConfigMaps and
// Secrets, other versions of a resource), come from informers of their own. Secrets are
// kept without their values, unless Config.SecretValues.
//
// An informer is a reflector of client-go that fills a store of ours, so that an object
// and its place in the order of changes are one step:
//   - what List returns is what the changes up to its Position have made of the objects,
//     exactly: nothing is told twice and nothing is left out;
//   - a store outlives its informer where the API server was only away: what a new one
//     finds different is told as changes, and positions stay good;
//   - another version of the resource, or other columns, begin a new epoch, and end the
//     Views of the one before.
//
// The order of keys, what Views show of an engine's object, and the log of changes are
// made when somebody asks, and forgotten when nobody has asked for a while: what only
// the engine follows costs nothing for the sake of questions.
//
// Invariants:
//   - One resource that cannot be listed or watched fails alone.
//   - Neither Ensure nor View reports success for a resource whose objects are not, or
//     no longer, known. A View of objects that were known goes on while the API server
//     is away; its Freshness tells since when.
//   - What Get returns, and what Views do, is shared and never changes.
//   - A log of changes is bounded in number and bytes, and so is the number of informers
//     that serve questions alone; the one that was asked about longest ago makes room.
//
// Run owns all goroutines. Callbacks come from the informers' goroutines. They must not
// block.
package cache
