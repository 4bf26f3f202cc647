package scenarios

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// allowedAgents asks RoR which agents a job may use, as kas does: their configurations by
// number.
func allowedAgents(f *harness.Fixture, j harness.Job) (map[int64]string, error) {
	req, err := http.NewRequestWithContext(f.T.Context(), http.MethodGet, f.Stack.RorURL+gitlabapi.PathAllowedAgents, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set(gitlabapi.JobTokenHeader, j.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("RoR answers %s", resp.Status)
	}
	var answer gitlabapi.AllowedAgents
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Job.ID != j.ID {
		return nil, fmt.Errorf("the token is said to be of job %d, not %d", answer.Job.ID, j.ID)
	}
	agents := map[int64]string{}
	for _, a := range answer.AllowedAgents {
		agents[a.ID] = string(a.Configuration)
	}
	return agents, nil
}

// TestJobs_LearnWhichAgentsTheyMayUse by ci_access of the configuration that kas has read.
func TestJobs_LearnWhichAgentsTheyMayUse(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	f.ConfigureFile("ci_access:\n  projects:\n  - id: " + f.Manifests.Path + "\n    access_as: {ci_job: {}}\n    environments: [prod/*]\n")
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)

	own := f.StartJob(f.Config.Path, harness.JobOptions{Ref: "main"})
	deploys := f.StartJob(f.Manifests.Path, harness.JobOptions{Ref: "main", Environment: "prod/eu"})
	f.Eventually(func() error {
		agents, err := allowedAgents(f, deploys)
		if err == nil && (len(agents) != 1 || agents[f.Agent.ID] != `{"access_as":{"ci_job":{}},"environments":["prod/*"]}`) {
			err = fmt.Errorf("the job may use %v", agents)
		}
		return err
	})
	for name, row := range map[string]struct {
		job  harness.Job
		want string
	}{
		"a job of the configuration's own project":   {own, "map[" + fmt.Sprint(f.Agent.ID) + ":{}]"},
		"a job that does not deploy to such a place": {f.StartJob(f.Manifests.Path, harness.JobOptions{Ref: "main"}), "map[]"},
	} {
		if agents, err := allowedAgents(f, row.job); err != nil || fmt.Sprint(agents) != row.want {
			t.Errorf("%s may use %v (%v), want %s", name, agents, err, row.want)
		}
	}
	f.FinishJob(f.Manifests.Path, deploys)
	if agents, err := allowedAgents(f, deploys); err == nil {
		t.Errorf("a job that has finished may use %v", agents)
	}
}
