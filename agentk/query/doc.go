// Package query answers questions about the cluster (agentrpc.ClusterQuery) out of what
// the cache knows, without asking the API server anything that it has told already.
//
// In go requests, and Views of the objects of a resource (objects.View); out come
// answers, encoded once and handed to the stream as *grpctool.Raw: the server that a
// Server is registered with must take those, as the tunnel and one with
// grpctool.RawCodec do.
//
// Invariants:
//   - What a List tells was so at one moment, but where a table is selected by fields
//     that its rows do not have: those are looked up in the whole objects, which may be
//     a little ahead or behind.
//   - A Watch that begins anew says so (reset), tells of every object, and then that it
//     has (synced); after that, or after a cursor, it tells of every change exactly
//     once, in order. Only a cursor of a response after synced can be gone on from; what
//     was cut off before begins anew, as does a table watch with such fields.
//   - A reader that is slow holds up nothing but its own answer, and what waits for it is
//     one message. When the View no longer knows what came after the last one sent, the
//     watch begins anew.
//   - A View that has ended is opened again; what keeps it from that ends the RPC.
//   - Selectors are parsed once, and an object whose bytes do not mention what is looked
//     for is not read.
//   - A mistake in a request is an error with a text that says what to do, never a panic.
//
// A Server starts no goroutine: RPCs run in the goroutines of whoever serves them. A
// Keeper holds on to what is to be known always; its Run owns one goroutine for each of
// those.
package query
