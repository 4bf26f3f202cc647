// Package engine tries the sync engine, that is gitops over agentk/cluster and
// agentk/cache, on a real Kubernetes API server: one control plane without nodes,
// shared by all tests, each of which has namespaces of its own.
package engine
