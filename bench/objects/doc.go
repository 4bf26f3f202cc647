// Package objects makes the sets of objects that the contenders sync, and carries
// them between processes.
//
// In go a case, a prefix that keeps one run's names from another's, and a version of
// the content; out comes a set, the same whenever it is asked for. Between two
// versions one object of a hundred changes, all of them of kinds whose change is a
// small one.
package objects
