package replicas

import (
	"context"
	"slices"
	"strconv"

	"github.com/redis/rueidis"
)

// Entry is what one replica has of an agent.
type Entry struct {
	AgentID int64
	// URL of the replica's private API.
	URL string
	// Data is what it said with Here.
	Data []byte
}

// Entries tells what all replicas, this one included, have of the agents; none given: of all
// agents. With an error, what this replica has is told all the same. The order is none.
func (r *Replicas) Entries(ctx context.Context, agentIDs []int64) ([]Entry, error) {
	var entries []Entry
	for id, data := range r.registry.local(agentIDs) {
		entries = append(entries, Entry{AgentID: id, URL: r.cfg.Self, Data: data})
	}
	s, err := r.current()
	if s == nil {
		return entries, err
	}
	others, err := r.Others(ctx)
	if err != nil {
		return entries, err
	}
	var theirs []Entry
	if len(agentIDs) == 0 {
		theirs, err = s.allEntries(ctx, others)
	} else {
		theirs, err = s.entries(ctx, others, agentIDs)
	}
	return append(entries, theirs...), err
}

// entries asks Redis for those of some agents.
func (s *session) entries(ctx context.Context, others []string, agentIDs []int64) ([]Entry, error) {
	var entries []Entry
	for ids := range slices.Chunk(agentIDs, chunkOf) {
		fields := make([]string, len(ids))
		for i, id := range ids {
			fields[i] = strconv.FormatInt(id, 10)
		}
		commands := make([]rueidis.Completed, 0, len(others))
		for _, url := range others {
			commands = append(commands, s.client.B().Hmget().Key(s.r.agentsKey(url)).Field(fields...).Build())
		}
		results, err := s.multi(ctx, "entries", commands...)
		if err != nil {
			return entries, err
		}
		for i, result := range results {
			values, _ := result.ToArray() // multi has looked for errors
			for j := range min(len(values), len(ids)) {
				if data, err := values[j].AsBytes(); err == nil { // else it has none
					entries = append(entries, Entry{AgentID: ids[j], URL: others[i], Data: data})
				}
			}
		}
	}
	return entries, nil
}

// allEntries asks Redis for those of all agents, replica by replica.
func (s *session) allEntries(ctx context.Context, others []string) ([]Entry, error) {
	var entries []Entry
	for _, url := range others {
		results, err := s.multi(ctx, "entries", s.client.B().Hgetall().Key(s.r.agentsKey(url)).Build())
		if err != nil {
			return entries, err
		}
		fields, _ := results[0].AsStrMap() // multi has looked for errors
		for field, data := range fields {
			if id, err := strconv.ParseInt(field, 10, 64); err == nil { // else it is the owner's
				entries = append(entries, Entry{AgentID: id, URL: url, Data: []byte(data)})
			}
		}
	}
	return entries, nil
}
