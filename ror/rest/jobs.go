package rest

import (
	"net/http"

	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// jobJSON is a CI job: GitLab's shape, and ExpiresAt. There is no CI here to run jobs:
// whoever may push starts one, and so gets a token as GitLab's jobs have it.
type jobJSON struct {
	ID          int64               `json:"id"`
	Status      registry.JobStatus  `json:"status"`
	Ref         string              `json:"ref"`
	CreatedAt   string              `json:"created_at"`
	FinishedAt  *string             `json:"finished_at"`
	ExpiresAt   string              `json:"expires_at"`
	User        jobUserJSON         `json:"user"`
	Pipeline    pipelineJSON        `json:"pipeline"`
	Environment *jobEnvironmentJSON `json:"environment,omitempty"`
	// Token is there once: in the answer that starts the job.
	Token string `json:"token,omitempty"`
}

type jobUserJSON struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	Name     string `json:"name"`
}

type pipelineJSON struct {
	ID        int64              `json:"id"`
	ProjectID int64              `json:"project_id"`
	Ref       string             `json:"ref"`
	Status    registry.JobStatus `json:"status"`
}

type jobEnvironmentJSON struct {
	Name string `json:"name"`
	Slug string `json:"slug"`
	Tier string `json:"tier"`
}

func toJob(j registry.Job) jobJSON {
	answer := jobJSON{
		ID: j.ID, Status: j.Status, Ref: j.Ref, CreatedAt: timestamp(j.CreatedAt), FinishedAt: optionalTimestamp(j.FinishedAt),
		ExpiresAt: timestamp(j.ExpiresAt),
		User:      jobUserJSON{ID: j.User.ID, Username: j.User.Username, Name: j.User.Name},
		Pipeline:  pipelineJSON{ID: j.ID, ProjectID: j.Project.ID, Ref: j.Ref, Status: j.Status},
	}
	if e := j.Environment; e.Name != "" {
		answer.Environment = &jobEnvironmentJSON{Name: e.Name, Slug: e.Slug, Tier: e.Tier}
	}
	return answer
}

func (s *Server) listJobs(w http.ResponseWriter, c call, p registry.Project) error {
	jobs, err := s.registry.Jobs(c.Context(), p.ID)
	if err != nil {
		return err
	}
	writeList(w, jobs, toJob)
	return nil
}

func (s *Server) startJob(w http.ResponseWriter, c call, p registry.Project) error {
	var body struct {
		Ref         string `json:"ref"`
		Environment string `json:"environment"`
		Tier        string `json:"tier"`
	}
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	j, token, err := s.registry.CreateJob(c.Context(), registry.NewJob{
		Project: p, User: c.user, Ref: body.Ref, Environment: body.Environment, Tier: body.Tier,
	})
	if err != nil {
		return err
	}
	answer := toJob(j)
	answer.Token = token
	jsonhttp.Write(w, http.StatusCreated, answer)
	return nil
}

func (s *Server) finishJob(w http.ResponseWriter, c call, p registry.Project) error {
	id, err := c.number("job")
	if err != nil {
		return err
	}
	j, err := s.registry.FinishJob(c.Context(), p.ID, id)
	if err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusCreated, toJob(j)) // GitLab's answer to all that jobs are told
	return nil
}
