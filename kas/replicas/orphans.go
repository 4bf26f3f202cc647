package replicas

import (
	"context"
	"slices"
	"strconv"
)

// Orphans has listener called with agents that another replica had that is gone: they may be on
// their way to a living one, or nobody's. All that are alive are told, each with another turn,
// from 0: so they need not all do the same. listener must not block. Orphans must be called
// before Run.
func (r *Replicas) Orphans(listener func(agentIDs []int64, turn int)) { r.onOrphans = listener }

// inherit looks what the replicas had that are gone, before Redis forgets it.
func (s *session) inherit(ctx context.Context, gone []string) error {
	slices.Sort(gone)
	for _, url := range slices.Compact(gone) {
		if url == s.r.cfg.Self {
			continue
		}
		results, err := s.multi(ctx, "inherit", s.client.B().Hgetall().Key(s.r.agentsKey(url)).Build())
		if err != nil {
			return err
		}
		had, _ := results[0].AsStrMap() // multi has looked for errors
		s.r.orphaned(had)
	}
	return nil
}

// orphaned tells who listens of what a replica had.
func (r *Replicas) orphaned(had map[string]string) {
	var ids []int64
	for field := range had {
		if id, err := strconv.ParseInt(field, 10, 64); err == nil { // else it is the owner's
			ids = append(ids, id)
		}
	}
	if len(ids) > 0 && r.onOrphans != nil {
		slices.Sort(ids)
		r.onOrphans(ids, r.where.rank(r.cfg.Self))
	}
}
