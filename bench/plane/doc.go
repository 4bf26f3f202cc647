// Package plane is the API server that everything is measured on, and the count of
// the requests that it got.
//
// In goes a directory for its data; out come a kubeconfig, and for each user agent
// the number of requests by verb, from the API server's own audit log.
//
// Of the controllers only those run that end namespaces: a ReplicaSet and a status
// made for each Deployment would be more work than what is measured, and take turns
// with it on the same cores.
package plane
