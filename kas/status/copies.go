package status

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

const (
	// maxCopy is the largest copy of a status that is kept for the other replicas, in
	// bytes; of a larger one only objects that are not well are in it, maxInCopy at most,
	// and so many mistakes.
	maxCopy   = 4 << 20
	maxInCopy = 5000
	// maxRead bounds what a copy is when it is not compressed.
	maxRead = maxObjectBytes + 64<<20
	// configurationField is that of how an agent's configuration fares; all others are
	// projects.
	configurationField = ""
)

var (
	errCopy  = errors.New("not a copy of a status")
	errLarge = errors.New("too large for a copy")
)

// copiesKey is where the others read what is known of an agent.
func copiesKey(agentID int64) string { return "status/" + strconv.FormatInt(agentID, 10) }

// keeper is the Poster that keeps statuses where all replicas can read them.
type keeper struct{ store *Store }

// PostSyncStatus implements Poster.
func (k keeper) PostSyncStatus(ctx context.Context, update *syncstatus.Update) error {
	s, key := k.store, Key{AgentID: update.GetAgentId()}
	var value []byte
	var err error
	switch what := update.GetUpdate().(type) {
	case *syncstatus.Update_Status:
		key.ProjectID = what.Status.GetProjectId()
		value, err = encodeWithin(maxCopy, what.Status, s.cfg.Self)
	case *syncstatus.Update_Configuration:
		value, err = proto.Marshal(what.Configuration)
	case *syncstatus.Update_RemovedProjectId:
		key.ProjectID = what.RemovedProjectId
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: encode what is known of agent %d: %w", gitlabapi.ErrRejected, key.AgentID, err)
	case update.GetRemovedProjectId() != "":
		err = s.replicas.Remove(ctx, copiesKey(key.AgentID), key.ProjectID)
	default:
		err = s.replicas.Put(ctx, copiesKey(key.AgentID), map[string][]byte{key.ProjectID: value}, s.cfg.KeepOffline)
	}
	if err != nil {
		return fmt.Errorf("%w: keep what is known of agent %d: %w", gitlabapi.ErrUnavailable, key.AgentID, err)
	}
	s.replicas.Tell(Topic, s.newsOf(key).encode())
	return nil
}

// toKeep is what the others are to read of a posting; nil: nothing.
func (s *Store) toKeep(what posting) *syncstatus.Update {
	s.mu.Lock()
	a := s.agents[what.agentID]
	switch {
	case a == nil:
		s.mu.Unlock()
		return nil
	case what.projectID == "":
		defer s.mu.Unlock()
		if a.present == 0 || a.configuration == nil {
			return nil
		}
		return &syncstatus.Update{AgentId: what.agentID, Update: &syncstatus.Update_Configuration{Configuration: a.configuration}}
	}
	p := a.projects[what.projectID]
	if p == nil {
		defer s.mu.Unlock()
		if _, configured := a.configured[what.projectID]; configured || a.configured == nil || a.present == 0 {
			return nil
		}
		return &syncstatus.Update{AgentId: what.agentID, Update: &syncstatus.Update_RemovedProjectId{RemovedProjectId: what.projectID}}
	}
	if p.silent {
		s.mu.Unlock()
		return nil
	}
	taken := snap(a, p)
	s.mu.Unlock()
	return &syncstatus.Update{AgentId: what.agentID, Update: &syncstatus.Update_Status{Status: render(taken, true)}}
}

// refresh has kept what would expire though it holds: with one field the others stay.
func (s *Store) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.agents {
		if a.present > 0 {
			s.share.mark(posting{agentID: id})
		}
	}
}

// encodeWithin makes a copy of at most so many bytes of a status, which it may change.
func encodeWithin(limit int, p *syncstatus.ProjectStatus, owner string) ([]byte, error) {
	all, message := len(p.GetObjects()), p.GetMessage()
	value, err := encode(p, owner)
	for most := maxInCopy; err == nil && len(value) > limit; most /= 10 {
		if most == 0 {
			return nil, errLarge
		}
		shorten(p, most)
		p.Message = join(message, fmt.Sprintf("%d more objects are not shown", all-len(p.GetObjects())))
		value, err = encode(p, owner)
	}
	return value, err
}

// shorten takes objects out that are well, and those and mistakes that are too many; the
// counts say how many there were.
func shorten(p *syncstatus.ProjectStatus, most int) {
	var kept []*syncstatus.ObjectStatus
	for _, o := range p.GetObjects() {
		if len(kept) < most && (isUnhealthy(o) || o.GetAction() == syncstatus.Action_ACTION_FAILED) {
			kept = append(kept, o)
		}
	}
	p.Objects = kept
	p.Errors = p.GetErrors()[:min(most, len(p.GetErrors()))]
}

// encode makes a copy: who wrote it, and the status, compressed.
func encode(p *syncstatus.ProjectStatus, owner string) ([]byte, error) {
	raw, err := proto.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode a status: %w", err)
	}
	out := bytes.NewBuffer(append(binary.AppendUvarint(nil, uint64(len(owner))), owner...))
	w, err := flate.NewWriter(out, flate.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("compress a status: %w", err)
	}
	if _, err := w.Write(raw); err != nil {
		return nil, fmt.Errorf("compress a status: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress a status: %w", err)
	}
	return out.Bytes(), nil
}

// decode returns a copy's status and who wrote it.
func decode(value []byte) (p *syncstatus.ProjectStatus, owner string, err error) {
	length, n := binary.Uvarint(value)
	if n <= 0 || length > uint64(len(value)-n) {
		return nil, "", errCopy
	}
	owner, value = string(value[n:n+int(length)]), value[n+int(length):]
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(value)), maxRead))
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", errCopy, err)
	}
	p = &syncstatus.ProjectStatus{}
	if err := proto.Unmarshal(raw, p); err != nil {
		return nil, "", fmt.Errorf("%w: %w", errCopy, err)
	}
	return p, owner, nil
}

// copies are what replicas said last of an agent, by project, as they are kept.
type copies map[string][]byte

func (s *Store) kept(ctx context.Context, agentID int64) (copies, error) {
	found, err := s.replicas.Get(ctx, copiesKey(agentID))
	if err != nil {
		return nil, fmt.Errorf("read what is known of agent %d: %w", agentID, err)
	}
	return found, nil
}

// project returns the status of a project, which is the caller's to change, and who said
// so; nil: nobody did, or nobody can make sense of it.
func (c copies) project(key Key) (*syncstatus.ProjectStatus, string) {
	p, owner, err := decode(c[key.ProjectID])
	if err != nil || p.GetAgentId() != key.AgentID || p.GetProjectId() != key.ProjectID {
		return nil, ""
	}
	return p, owner
}

// projects are those that there is a copy of, ordered.
func (c copies) projects() []string {
	var ids []string
	for id := range c {
		if id != configurationField {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// configuration is how the agent's fares; nil: nobody said so.
func (c copies) configuration() *syncstatus.ConfigurationStatus {
	value, ok := c[configurationField]
	found := &syncstatus.ConfigurationStatus{}
	if !ok || proto.Unmarshal(value, found) != nil {
		return nil
	}
	return found
}

// lost makes a status that of an agent that is away. Where nothing was ever applied because
// nothing can be read from Git, that stays what is to be known.
func lost(p *syncstatus.ProjectStatus, present bool) {
	p.Connected = false
	if p.GetState() == syncstatus.State_STATE_FAILED && p.GetAppliedCommit() == "" {
		return
	}
	p.State, p.Message = State(Facts{WasConnected: true, Present: present})
}
