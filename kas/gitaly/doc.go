// Package gitaly reads Git repositories through Gitaly.
//
// In go repositories, refs, commits and paths, in the words of internal/gitrepo;
// out come revisions (which commit a ref names now), lists of files, and contents.
//
//	pool    := NewPool(PoolConfig{…}, registerer)    connections and rate limits
//	refs    := NewRefs(RefsConfig{…}, pool, registerer)       who moved?
//	content := NewContent(ContentConfig{…}, pool, registerer) what is in it?
//	defer pool.Close() // after every call below has returned
//
//	stop := refs.Follow(ctx, repo, ref, period, func(gitrepo.Revision))
//	refs.Poke(func(gitlabapi.GitalyRepository) bool, traceparent) // poll these now
//	refs.Heard(message) // told by a replica
//	refs.Lookup(ctx, repo, ref) (gitrepo.Revision, error) // ask once
//	content.Files(ctx, repo, commitID) ([]gitrepo.File, error)
//	content.Blobs(ctx, repo, oids, maxSize, func(oid string, data []byte, size int64) error) error
//	content.File(ctx, repo, commitID, path, maxSize) ([]byte, error)
//
// Invariants:
//   - There is one poller per server address, repository and ref, however many
//     follow it; it polls at the shortest period that its followers ask for. It
//     starts with the first follower and has ended when the last one's stop returns:
//     whoever stops what it follows leaves no goroutine behind.
//   - Of replicas that act as one (Replicas), one polls a ref; the others poll it when
//     they begin to follow it, when they are told that it moved, and now and then.
//     What they are told says only that it is time to ask Gitaly: a commit that
//     others name is never believed. Where it is not known who polls, or who polls
//     cannot see, each does.
//   - A poll is one SmartHTTPService.InfoRefsUploadPack. Nothing else is asked of
//     Gitaly while the ref stays where it is. A commit needs no poll: it is looked
//     up once.
//   - A follower has no goroutine: it is called at once with what is known (or as soon
//     as the first poll is back), then after each change, by the poller, in order and
//     not once more after its stop. It must not block.
//   - Trees and blobs never change, so they are cached under their IDs in one
//     least-recently-used cache that is bounded in bytes, and N concurrent askers
//     cost one fetch.
//   - Data and file lists are shared: nobody changes them.
//   - Errors are gitrepo's: a person's mistake, or *gitrepo.UnavailableError.
package gitaly
