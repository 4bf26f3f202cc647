// Package manifests turns the files of a repository into Kubernetes objects.
//
// In go paths and bytes; out come objects, each with its canonical JSON, its digest
// and where it stands, and mistakes, each with file and line and what to do.
//
//	selector, err := NewSelector(globs)        // which paths are manifests
//	file  := ParseFile(path, data, limits)     // pure: may be kept by path and blob
//	set   := Assemble(files, namespace, limits)
//	fresh := Delta(&set, held)                 // what a holder of held lacks
//
// Scalars have the types that kubectl gives them (sigs.k8s.io/yaml: YAML 1.1, in
// which yes, no, on and off are booleans), so that a manifest means here what it
// means there.
//
// Invariants:
//   - Everything is pure and deterministic: no clock, no I/O, no goroutine. The same
//     bytes give the same objects, digests and errors, in the same order.
//   - One bad document spoils no other, of the same file or of another.
//   - A set is Complete only if every selected file was read to its end, and what
//     each asks for is beyond doubt. Limits and duplicates make it incomplete.
//   - No input makes it panic, recurse without bound, or grow beyond the Limits.
package manifests
