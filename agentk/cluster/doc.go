// Package cluster is the engine's way to the API server: it implements
// gitops.Cluster.
//
// In go requests of the engine; out come server-side applies (field manager
// "agentk", conflicts forced), conditional deletes, and inventories kept in ConfigMaps
// of agentk's own namespace. What is live comes from a shared cache, agentk/cache,
// which the root wires in:
//
//	objects, err := cache.New(cache.Config{RESTConfig: rc, FieldManager: cluster.FieldManager, Log: log})
//	c, err := cluster.New(cluster.Config{RESTConfig: rc, Namespace: ns, Cache: objects})
//	g.Go(func() error { return objects.Run(ctx) })
//	gitops.Run(ctx, c, project, desired, observer)
//
// Invariants:
//   - Live never shows less than an Apply that has returned: until the cache has
//     caught up, the API server's own answer is shown.
//   - A deletion is conditional on the object's UID and resource version. If it has
//     changed since it was seen, it is looked at again, and deleted only if it is
//     still whose it was.
//   - An inventory is read once and then kept. All writes are conditional, so that a
//     second writer is noticed; where one is expected, after leadership was lost and
//     won again, call Forget.
//   - Errors for which the API server could not be asked wrap gitops.ErrUnavailable.
//     All others are the API server's own words, marked with what kind of error they
//     are where the engine decides on that.
//   - A request for an object is sent once: to wait and send it again where the API
//     server throttles is the engine's business, not client-go's.
//
// The package starts no goroutine.
package cluster
