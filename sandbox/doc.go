// Package sandbox runs the real things that kas needs around it on one machine,
// without containers, registries or root: a Kubernetes control plane with fake
// nodes (etcd, kube-apiserver, controller-manager, scheduler, kwok) and Gitaly.
// Tests, benchmarks and the demo start it.
//
// Build compiles the programs once, from the modules below this folder, into a
// cache that all checkouts share; the Start functions build what is missing.
// StartControlPlane and StartGitaly then return running instances.
//
// Invariants:
//   - Any number of instances run side by side: each has its own directory and its
//     own free ports, which stay the same when a part is started again.
//   - Each part is a process.Process that can be stopped, killed and started alone.
//     Data are kept on disk meanwhile.
//   - All listens on the loopback. What could run commands, a LivePod, is there only where
//     it was asked for, and only for who knows its namespace.
//   - After Stop no process is left, and no file where the directory was a
//     temporary one. When the parent dies, so do all parts, at once.
//
// It runs on Linux. The only goroutines are those of package process, one per
// running part.
package sandbox
