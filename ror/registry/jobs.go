package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const (
	// JobLifetime is how long a CI job may run.
	JobLifetime = time.Hour
	// jobsKept is how long jobs are remembered once they cannot run any more.
	jobsKept = 30 * 24 * time.Hour
)

// JobStatus is how a job fares, as GitLab names it.
type JobStatus string

// Job statuses.
const (
	JobRunning JobStatus = "running"
	JobSuccess JobStatus = "success"
	JobFailed  JobStatus = "failed" // ran out of time
)

// Job is a CI job. It is a pipeline of its own, of the same number.
type Job struct {
	ID      int64
	Project Project
	// User is who started it, and whose rights it has got.
	User User
	// Ref is the name of a branch or tag.
	Ref string
	// Environment that it deploys to; without a name: none.
	Environment Environment
	Status      JobStatus
	CreatedAt   time.Time
	// ExpiresAt is when the job's time is up.
	ExpiresAt time.Time
	// FinishedAt is zero for one that was not finished.
	FinishedAt time.Time
}

// Protected tells whether the job's ref is a protected branch, which here is the default
// branch, as in a GitLab where nobody has changed that.
func (j Job) Protected() bool { return j.Ref == j.Project.DefaultBranch }

// NewJob is what CreateJob needs.
type NewJob struct {
	Project Project
	User    User
	Ref     string
	// Environment is a name. Empty: none.
	Environment string
	// Tier of the environment. Default: guessed by its name.
	Tier string
}

const jobColumns = "jobs.id, jobs.ref, jobs.environment, jobs.tier, jobs.created_at, jobs.expires_at, jobs.finished_at, " +
	userColumns + ", " + projectColumns

const jobTables = "jobs JOIN users ON users.id = jobs.user_id JOIN projects ON projects.id = jobs.project_id " +
	"JOIN namespaces ON namespaces.id = projects.namespace_id"

func (r *Registry) scanJob(s scanner) (Job, error) {
	var j Job
	var created, expires, userCreated, projectCreated int64
	var finished sql.NullInt64
	err := s.Scan(append([]any{
		&j.ID, &j.Ref, &j.Environment.Name, &j.Environment.Tier, &created, &expires, &finished,
		&j.User.ID, &j.User.Username, &j.User.Name, &j.User.Admin, &userCreated,
	}, j.Project.fields(&projectCreated)...)...)
	j.User.CreatedAt, j.Project.CreatedAt = toTime(userCreated), toTime(projectCreated)
	j.CreatedAt, j.ExpiresAt, j.FinishedAt = toTime(created), toTime(expires), toOptionalTime(finished)
	if j.Environment.Name != "" {
		j.Environment.Slug = environmentSlug(j.Environment.Name)
	}
	switch {
	case finished.Valid:
		j.Status = JobSuccess
	case r.clock.Now().Before(j.ExpiresAt):
		j.Status = JobRunning
	default:
		j.Status = JobFailed
	}
	return j, err
}

// CreateJob starts a job. It returns the job, and the token by which it is known while it
// runs.
func (r *Registry) CreateJob(ctx context.Context, n NewJob) (Job, string, error) {
	if n.Ref == "" || len(n.Ref) > 255 {
		return Job{}, "", &InvalidError{"ref", "must be the name of a branch or tag"}
	}
	environment, err := newEnvironment(n.Environment, n.Tier)
	if err != nil {
		return Job{}, "", err
	}
	now := toTime(r.now())
	j := Job{
		Project: n.Project, User: n.User, Ref: n.Ref, Environment: environment, Status: JobRunning,
		CreatedAt: now, ExpiresAt: now.Add(JobLifetime),
	}
	token := newToken(prefixJob)
	err = r.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "DELETE FROM jobs WHERE expires_at <= ?", now.Add(-jobsKept).UnixMilli()); err != nil {
			return fmt.Errorf("forget old jobs: %w", err)
		}
		var err error
		j.ID, err = insert(ctx, tx, "job", `INSERT INTO jobs (project_id, user_id, ref, environment, tier, token_hash, created_at, expires_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, j.Project.ID, j.User.ID, j.Ref, j.Environment.Name, j.Environment.Tier, hashToken(token),
			j.CreatedAt.UnixMilli(), j.ExpiresAt.UnixMilli())
		return err
	})
	return j, token, err
}

// Job returns a job of a project.
func (r *Registry) Job(ctx context.Context, projectID, id int64) (Job, error) {
	return one(ctx, r.read, fmt.Sprintf("job %d", id), r.scanJob,
		"SELECT "+jobColumns+" FROM "+jobTables+" WHERE jobs.project_id = ? AND jobs.id = ?", projectID, id)
}

// Jobs lists a project's jobs, newest first.
func (r *Registry) Jobs(ctx context.Context, projectID int64) ([]Job, error) {
	return many(ctx, r.read, "jobs", r.scanJob,
		"SELECT "+jobColumns+" FROM "+jobTables+" WHERE jobs.project_id = ? ORDER BY jobs.id DESC LIMIT ?", projectID, MaxList)
}

// JobByToken returns the running job of that token; ErrUnauthorized where there is none.
func (r *Registry) JobByToken(ctx context.Context, token string) (Job, error) {
	j, err := one(ctx, r.read, "job token", r.scanJob, "SELECT "+jobColumns+" FROM "+jobTables+" WHERE jobs.token_hash = ?", hashToken(token))
	if errors.Is(err, ErrNotFound) || (err == nil && j.Status != JobRunning) {
		return Job{}, ErrUnauthorized
	}
	return j, err
}

// FinishJob ends a job, and its token, and returns it. One that does not run stays as it is.
func (r *Registry) FinishJob(ctx context.Context, projectID, id int64) (Job, error) {
	now := r.now()
	_, err := r.write.ExecContext(ctx,
		"UPDATE jobs SET finished_at = ? WHERE project_id = ? AND id = ? AND finished_at IS NULL AND expires_at > ?", now, projectID, id, now)
	if err != nil {
		return Job{}, fmt.Errorf("finish job %d: %w", id, err)
	}
	return r.Job(ctx, projectID, id)
}
