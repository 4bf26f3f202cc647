// Package render makes Kubernetes objects of kustomizations and Helm charts.
//
// In go the files of a commit, of which it loads those that it needs, and an Entry that
// names a directory; out come objects with the files that they are from, and mistakes,
// as of one file of package manifests.
//
//	entry, err := Kustomize("overlays/production")
//	tree := NewTree(ids)                          // the IDs of the commit's files, by path
//	result, err := renderer.Render(ctx, entry, tree, load)
//	result.File                                   // goes into manifests.Assemble
//	result.Valid(nextTree)                        // would rendering give the same again?
//
// Invariants:
//   - Nothing but the repository is read: no network, no other file of the machine, no
//     program is run. What asks for more is a mistake that names file and line.
//   - A rendering that fails is a mistake and gives no object; Render's own error means
//     only that files could not be loaded, or that ctx has ended.
//   - The libraries' panics are mistakes. How many files and bytes go in and come out is
//     bounded, and so is how long anybody waits. What a chart's templates make the library
//     do or hold meanwhile is bounded with Config.Command alone: then each rendering has a
//     process of its own, with little memory and nothing of its parent's environment,
//     which is killed when it is given up, and which ends itself when its parent is gone.
//     Without, a rendering that is given up goes on in its goroutine until it ends by
//     itself, and counts among those that may run at once.
//   - Equal files give equal objects, but for templates that ask for random values or
//     the time.
package render
