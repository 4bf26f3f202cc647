package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/kas-agentk/kas/sandbox/stack"
)

// The sample is fixed: testdata/sample/agents names the other two.
const (
	namespace       = "demo"
	configProject   = namespace + "/agents"
	manifestProject = namespace + "/manifests"
	agentName       = "sandbox"
)

// sample is what was set up in ror.
type sample struct {
	agentID int64
	commit  string // newest of the manifest project
	fresh   bool   // this run pushed it
}

// setUp makes projects, agent and token, pushes what is not there yet, and starts
// agentk. Each step is left out where an earlier run did it.
func (d *demo) setUp(ctx context.Context) error {
	client := d.stack.Client()
	for _, path := range []string{configProject, manifestProject} {
		if err := ensureProject(ctx, client, path); err != nil {
			return fmt.Errorf("make project %s: %w", path, err)
		}
	}
	agent, err := ensureAgent(ctx, client)
	if err != nil {
		return fmt.Errorf("register agent %s: %w", agentName, err)
	}
	d.sample.agentID = agent.ID
	token, err := d.ensureToken(ctx, client, agent.ID)
	if err != nil {
		return fmt.Errorf("make a token for agent %s: %w", agentName, err)
	}
	if err := d.pushSample(ctx); err != nil {
		return err
	}
	if err := d.cluster.ensureNamespace(ctx, agentNamespace); err != nil {
		return err
	}
	return d.startAgentk(ctx, token)
}

func ensureProject(ctx context.Context, client *stack.Client, path string) error {
	_, err := client.Project(ctx, path)
	var status *stack.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		_, err = client.CreateProject(ctx, filepath.Dir(path), filepath.Base(path), "private")
	}
	return err
}

func ensureAgent(ctx context.Context, client *stack.Client) (stack.Agent, error) {
	all, err := client.Agents(ctx, configProject)
	if err != nil {
		return stack.Agent{}, err
	}
	for _, agent := range all {
		if agent.Name == agentName {
			return agent, nil
		}
	}
	return client.CreateAgent(ctx, configProject, agentName)
}

// ensureToken is the agent's token: ror shows it once, so the demo keeps it.
func (d *demo) ensureToken(ctx context.Context, client *stack.Client, agent int64) (string, error) {
	file := d.path(fmt.Sprintf("agent-%d-token", agent))
	kept, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(kept)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the token kept: %w", err)
	}
	token, err := client.CreateToken(ctx, configProject, agent, "demo")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(file, []byte(token.Token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the token: %w", err)
	}
	return token.Token, nil
}

// pushSample pushes both projects' files where their repositories are empty.
func (d *demo) pushSample(ctx context.Context) error {
	for project, folder := range map[string]string{configProject: "agents", manifestProject: "manifests"} {
		g := git{url: d.gitURL(project)}
		commit, err := g.head(ctx)
		if err != nil {
			return err
		}
		if commit == "" {
			d.say("pushing the sample to %s", project)
			commit, err = g.pushFolder(ctx, filepath.Join(d.source, "testdata", "sample", folder), "Add the sample")
			if err != nil {
				return err
			}
			d.sample.fresh = d.sample.fresh || project == manifestProject
		}
		if project == manifestProject {
			d.sample.commit = commit
		}
	}
	return nil
}

func (d *demo) startAgentk(ctx context.Context, token string) error {
	d.say("starting agentk")
	var err error
	d.agentk, err = stack.NewAgentk(stack.AgentkConfig{
		Dir: d.path("agentk"), Program: d.programs.Agentk, KasAddress: d.stack.KasAgentAddress,
		Token: token, Kubeconfig: d.cluster.kubeconfig, Namespace: agentNamespace,
		TracingEndpoint: d.cfg.TracingEndpoint,
	})
	if err != nil {
		return err
	}
	d.onStop(d.agentk.Close)
	return d.agentk.Start(ctx)
}

// gitURL is a project's address, credentials included.
func (d *demo) gitURL(project string) string {
	return strings.Replace(d.stack.RorURL, "://", "://"+url.UserPassword(stack.User, d.stack.Password).String()+"@", 1) + "/" + project + ".git"
}
