package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// ApplyUpdate stores what kas says of an agent. An update that is older than what
// is stored changes nothing. ErrNotFound: there is no such agent (any more).
func (r *Registry) ApplyUpdate(ctx context.Context, u *syncstatus.Update) error {
	if _, err := r.Agent(ctx, u.GetAgentId()); err != nil {
		return err
	}
	switch {
	case u.GetStatus() != nil:
		return r.setProjectStatus(ctx, u.GetAgentId(), u.GetStatus())
	case u.GetConfiguration() != nil:
		return r.setConfigurationStatus(ctx, u.GetAgentId(), u.GetConfiguration())
	case u.GetRemovedProjectId() != "":
		_, err := r.write.ExecContext(ctx, "DELETE FROM project_statuses WHERE agent_id = ? AND project = ?", u.GetAgentId(), u.GetRemovedProjectId())
		if err != nil {
			return fmt.Errorf("forget status of project %s: %w", u.GetRemovedProjectId(), err)
		}
		return nil
	}
	return &InvalidError{"update", "is missing: one of status, removed_project_id, configuration"}
}

func (r *Registry) setProjectStatus(ctx context.Context, agentID int64, s *syncstatus.ProjectStatus) error {
	if s.GetProjectId() == "" {
		return &InvalidError{"status.project_id", "is missing"}
	}
	summary := proto.CloneOf(s)
	summary.AgentId = agentID
	summary.Objects = nil
	status, err := proto.Marshal(summary)
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	objects, err := proto.Marshal(&syncstatus.ProjectStatus{Objects: s.GetObjects()})
	if err != nil {
		return fmt.Errorf("encode objects: %w", err)
	}
	_, err = r.write.ExecContext(ctx, `INSERT INTO project_statuses (agent_id, project, project_path, state, updated_at, status, objects)
		VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (agent_id, project) DO UPDATE SET project_path = excluded.project_path, state = excluded.state,
			updated_at = excluded.updated_at, status = excluded.status, objects = excluded.objects
		WHERE excluded.updated_at >= project_statuses.updated_at`,
		agentID, s.GetProjectId(), s.GetProjectPath(), s.GetState(), r.updatedAt(s), status, objects)
	if err != nil {
		return fmt.Errorf("store status of project %s: %w", s.GetProjectId(), classify(err))
	}
	return nil
}

// updatedAt orders the updates of one project. A kas whose clock is ahead must not
// silence one whose clock is right, so the future counts as now.
func (r *Registry) updatedAt(s *syncstatus.ProjectStatus) int64 {
	now := r.clock.Now()
	if t := s.GetUpdatedAt(); t != nil && t.AsTime().Before(now) {
		return t.AsTime().UnixMilli()
	}
	return now.UnixMilli()
}

func (r *Registry) setConfigurationStatus(ctx context.Context, agentID int64, c *syncstatus.ConfigurationStatus) error {
	status, err := proto.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode configuration status: %w", err)
	}
	_, err = r.write.ExecContext(ctx, `INSERT INTO configuration_statuses (agent_id, failed, status) VALUES (?, ?, ?)
		ON CONFLICT (agent_id) DO UPDATE SET failed = excluded.failed, status = excluded.status`, agentID, c.GetError() != nil, status)
	if err != nil {
		return fmt.Errorf("store configuration status: %w", classify(err))
	}
	return nil
}

// ConfigurationStatus tells how an agent's configuration fares; nil: not known yet.
func (r *Registry) ConfigurationStatus(ctx context.Context, agentID int64) (*syncstatus.ConfigurationStatus, error) {
	c, err := one(ctx, r.read, "configuration status", func(s scanner) (*syncstatus.ConfigurationStatus, error) {
		var status []byte
		if err := s.Scan(&status); err != nil {
			return nil, err
		}
		c := &syncstatus.ConfigurationStatus{}
		return c, proto.Unmarshal(status, c)
	}, "SELECT status FROM configuration_statuses WHERE agent_id = ?", agentID)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return c, err
}

// Statuses lists the statuses of an agent's manifest projects, by name. Unless only
// is empty: of the one project of that name or full path.
func (r *Registry) Statuses(ctx context.Context, agentID int64, only string, withObjects bool) ([]*syncstatus.ProjectStatus, error) {
	return many(ctx, r.read, "statuses", scanStatus,
		"SELECT status, "+objectsColumn(withObjects)+` FROM project_statuses
			WHERE agent_id = ?1 AND (?2 = '' OR project = ?2 OR project_path = ?2) ORDER BY project LIMIT ?3`, agentID, only, MaxList)
}

// maxClusters is how many clusters' statuses of one project are listed.
const maxClusters = 100

// StatusesOf lists a manifest project's statuses in all clusters that name it, the
// first hundred by agent. Any agent's configuration can name any project: whether the
// agent may read it, and whether a reader of the project may see the agent, is the
// caller's to ask.
func (r *Registry) StatusesOf(ctx context.Context, p Project, withObjects bool) ([]*syncstatus.ProjectStatus, error) {
	return many(ctx, r.read, "statuses", scanStatus,
		"SELECT status, "+objectsColumn(withObjects)+` FROM project_statuses
			WHERE project_path = ?1 OR project = ?1 COLLATE NOCASE OR project = ?2 ORDER BY agent_id LIMIT ?3`,
		p.FullPath, strconv.FormatInt(p.ID, 10), maxClusters)
}

func objectsColumn(withObjects bool) string {
	if withObjects {
		return "objects"
	}
	return "x''"
}

func scanStatus(s scanner) (*syncstatus.ProjectStatus, error) {
	var status, objects []byte
	if err := s.Scan(&status, &objects); err != nil {
		return nil, err
	}
	p := &syncstatus.ProjectStatus{}
	merge := proto.UnmarshalOptions{Merge: true}
	return p, errors.Join(merge.Unmarshal(status, p), merge.Unmarshal(objects, p))
}

// AgentStates sums up what an agent's projects are like.
type AgentStates struct {
	// Projects counts the agent's manifest projects by state.
	Projects map[syncstatus.State]int
	// ConfigurationFailed: the newest configuration file is not in force.
	ConfigurationFailed bool
}

// States sums up all agents, by number. An agent without status is not in it.
func (r *Registry) States(ctx context.Context) (map[int64]AgentStates, error) {
	type row struct {
		agent  int64
		state  syncstatus.State
		n      int
		failed bool
	}
	rows, err := many(ctx, r.read, "states", func(s scanner) (row, error) {
		var w row
		err := s.Scan(&w.agent, &w.state, &w.n, &w.failed)
		return w, err
	}, `SELECT agent_id, state, count(*), 0 FROM project_statuses GROUP BY agent_id, state
		UNION ALL SELECT agent_id, 0, 0, 1 FROM configuration_statuses WHERE failed`)
	if err != nil {
		return nil, err
	}
	states := make(map[int64]AgentStates)
	for _, w := range rows {
		s := states[w.agent]
		if s.Projects == nil {
			s.Projects = make(map[syncstatus.State]int)
		}
		if w.n > 0 {
			s.Projects[w.state] += w.n
		}
		s.ConfigurationFailed = s.ConfigurationFailed || w.failed
		states[w.agent] = s
	}
	return states, nil
}

// RefChange is one ref that a push moved.
type RefChange struct {
	Ref string
	// Old and New are commits; all zeros: the ref was made, or deleted.
	Old, New string
}

// Push is one push, as gitaly's hook told it.
type Push struct {
	Project Project
	// UserID is zero where the pusher is not known.
	UserID  int64
	Changes []RefChange
	At      time.Time
}

// pushesKept is how many ref changes are kept of each project.
const pushesKept = 1000

// RecordPush keeps a push, and forgets the oldest of the project.
func (r *Registry) RecordPush(ctx context.Context, p Push) error {
	user := sql.NullInt64{Int64: p.UserID, Valid: p.UserID != 0}
	return r.tx(ctx, func(tx *sql.Tx) error {
		for _, c := range p.Changes {
			_, err := insert(ctx, tx, "push", "INSERT INTO pushes (project_id, user_id, ref, old_commit, new_commit, created_at) VALUES (?, ?, ?, ?, ?, ?)",
				p.Project.ID, user, c.Ref, c.Old, c.New, p.At.UnixMilli())
			if err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM pushes WHERE project_id = ?1 AND id <=
			(SELECT id FROM pushes WHERE project_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)`, p.Project.ID, pushesKept)
		if err != nil {
			return fmt.Errorf("forget old pushes: %w", err)
		}
		return nil
	})
}

// LastPush tells when anyone last pushed to a project; zero: never.
func (r *Registry) LastPush(ctx context.Context, projectID int64) (time.Time, error) {
	var ms sql.NullInt64
	if err := r.read.QueryRowContext(ctx, "SELECT max(created_at) FROM pushes WHERE project_id = ?", projectID).Scan(&ms); err != nil {
		return time.Time{}, fmt.Errorf("read last push: %w", err)
	}
	return toOptionalTime(ms), nil
}

// AddUsage adds kas's usage counters to their totals.
func (r *Registry) AddUsage(ctx context.Context, counters map[string]int64) error {
	return r.tx(ctx, func(tx *sql.Tx) error {
		for name, n := range counters {
			_, err := insert(ctx, tx, "usage", `INSERT INTO usage_counters (name, value) VALUES (?, ?)
				ON CONFLICT (name) DO UPDATE SET value = value + excluded.value`, name, n)
			if err != nil {
				return err
			}
		}
		return nil
	})
}
