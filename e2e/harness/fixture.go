package harness

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/sandbox/process"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// count makes names unique.
var count atomic.Int64

// Fixture is one agent and what it follows.
type Fixture struct {
	*Env
	T testing.TB
	// Name is unique in the Env: the agent's name, the namespace that its objects are
	// meant for, and the namespace of the projects.
	Name string
	// AgentNamespace is where agentk keeps its own objects.
	AgentNamespace string

	Agent  stack.Agent
	Token  stack.AgentToken
	Agentk *stack.Agentk
	// Config is the agent's configuration project, Manifests what it follows.
	Config, Manifests *Repo

	// agentks that were started, see Eventually.
	agentks []*process.Process
}

// New makes a fixture whose agent follows its manifest project as the lines say,
// which are further keys of its entry in the configuration. agentk is running.
func (e *Env) New(tb testing.TB, lines ...string) *Fixture {
	tb.Helper()
	f := e.NewStopped(tb, lines...)
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	return f
}

// NewStopped is New without an agentk.
func (e *Env) NewStopped(tb testing.TB, lines ...string) *Fixture {
	tb.Helper()
	f := e.NewUnconfigured(tb)
	f.Configure(append([]string{"default_namespace: " + f.Name}, lines...)...)
	return f
}

// NewUnconfigured is NewStopped with an empty configuration project.
func (e *Env) NewUnconfigured(tb testing.TB) *Fixture {
	tb.Helper()
	f := &Fixture{Env: e, T: tb, Name: fmt.Sprintf("t%d", count.Add(1))}
	tb.Cleanup(f.revive)
	f.AgentNamespace = f.Name + "-agent"
	f.CreateNamespace(f.Name)
	f.CreateNamespace(f.AgentNamespace)
	f.Config = f.NewRepo("agents", "private")
	f.Manifests = f.NewRepo("manifests", "private")

	f.register()
	return f
}

// NewSibling is a fixture for a further agent of the configuration project, without an
// agentk. What the two follow is the same project; where they put it is not.
func (f *Fixture) NewSibling(lines ...string) *Fixture {
	f.T.Helper()
	s := &Fixture{Env: f.Env, T: f.T, Name: fmt.Sprintf("t%d", count.Add(1)), Config: f.Config, Manifests: f.Manifests}
	s.AgentNamespace = s.Name + "-agent"
	s.CreateNamespace(s.Name)
	s.CreateNamespace(s.AgentNamespace)
	s.register()
	s.Configure(append([]string{"default_namespace: " + s.Name}, lines...)...)
	return s
}

// For is the fixture for a subtest, which fails instead of the test around it.
func (f *Fixture) For(tb testing.TB) *Fixture {
	tb.Helper()
	sub := *f
	sub.T = tb
	return &sub
}

// register makes the agent and a token for it.
func (f *Fixture) register() {
	f.T.Helper()
	var err error
	if f.Agent, err = f.Client().CreateAgent(f.T.Context(), f.Config.Path, f.Name); err != nil {
		f.T.Fatal(err)
	}
	if f.Token, err = f.Client().CreateToken(f.T.Context(), f.Config.Path, f.Agent.ID, "test"); err != nil {
		f.T.Fatal(err)
	}
}

// revive starts what a test that failed half way left dead, for the tests after it.
func (f *Fixture) revive() {
	if !f.T.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, p := range f.parts() {
		if p.Running() {
			continue
		}
		if err := p.Start(ctx); err != nil && !errors.Is(err, process.ErrRunning) {
			f.T.Error(err)
		}
	}
}

// Client speaks ror's REST as the administrator.
func (f *Fixture) Client() *stack.Client { return f.Stack.Client() }

// NewAgentk prepares an agentk of the fixture's agent; each has its own state. It
// is closed when the test ends.
func (f *Fixture) NewAgentk(name string) *stack.Agentk {
	f.T.Helper()
	return f.NewAgentkWith(name, func(*stack.AgentkConfig) {})
}

// NewAgentkOf is NewAgentk for the kas at that address.
func (f *Fixture) NewAgentkOf(kasAddress, name string) *stack.Agentk {
	f.T.Helper()
	return f.NewAgentkWith(name, func(cfg *stack.AgentkConfig) { cfg.KasAddress = kasAddress })
}

// NewAgentkWith is NewAgentk with something else than usual.
func (f *Fixture) NewAgentkWith(name string, change func(*stack.AgentkConfig)) *stack.Agentk {
	f.T.Helper()
	cfg := stack.AgentkConfig{
		Dir: filepath.Join(f.Dir, f.Name, name), Program: f.Programs.Agentk, KasAddress: f.Stack.KasAgentAddress,
		Token: f.Token.Token, Kubeconfig: f.Cluster.Kubeconfig, Namespace: f.AgentNamespace,
		TracingEndpoint: f.Stack.TracingEndpoint(),
		Args:            []string{"--log-level=" + logLevel()},
	}
	change(&cfg)
	a, err := stack.NewAgentk(cfg)
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		if err := a.Close(); err != nil {
			f.T.Error(err)
		}
		if f.T.Failed() {
			f.T.Logf("%s of %s said last:\n%s", name, f.Name, a.LogTail())
		}
	})
	f.guards.watch(a.Process)
	f.agentks = append(f.agentks, a.Process)
	return a
}

// Start starts a process and fails the test if that fails.
func (f *Fixture) Start(p interface{ Start(context.Context) error }) {
	f.T.Helper()
	if err := p.Start(f.T.Context()); err != nil {
		f.T.Fatal(err)
	}
}

// Configure pushes a configuration file with one manifest project.
func (f *Fixture) Configure(lines ...string) string {
	f.T.Helper()
	return f.ConfigureFile("gitops:\n  manifest_projects:\n  - id: " + f.Manifests.Path + "\n    " + strings.Join(lines, "\n    ") + "\n")
}

// ConfigureFile pushes a configuration file.
func (f *Fixture) ConfigureFile(content string) string {
	f.T.Helper()
	f.Config.Write(".gitlab/agents/"+f.Name+"/config.yaml", content)
	return f.Config.Push("Configure")
}

// NewRepo makes a project of the fixture's and clones it.
func (f *Fixture) NewRepo(name, visibility string) *Repo {
	f.T.Helper()
	project, err := f.Client().CreateProject(f.T.Context(), f.Name, name, visibility)
	if err != nil {
		f.T.Fatal(err)
	}
	return f.clone(project)
}

// clone clones a project as the administrator.
func (f *Fixture) clone(project stack.Project) *Repo {
	f.T.Helper()
	// By the token: to check a password takes ror long, as it must.
	r, err := f.CloneAs(stack.User, f.Stack.Token, project.Path)
	if err != nil {
		f.T.Fatal(err)
	}
	r.ID = project.ID
	r.Git("checkout", "--quiet", "-B", "main")
	return r
}

// CloneAs clones a project of that full path into a folder of its own. Without a
// user it does so anonymously.
func (f *Fixture) CloneAs(user, password, project string) (*Repo, error) {
	f.T.Helper()
	return f.CloneFrom(f.Stack.RorURL, user, password, project)
}

// CloneFrom is CloneAs from a server at another address than ror's.
func (f *Fixture) CloneFrom(server, user, password, project string) (*Repo, error) {
	f.T.Helper()
	remote, err := url.Parse(server)
	if err != nil {
		f.T.Fatal(err)
	}
	if user != "" {
		remote.User = url.UserPassword(user, password)
	}
	remote.Path = "/" + project + ".git"
	r := &Repo{t: f.T, Dir: filepath.Join(f.T.TempDir(), "clone"), URL: remote.String(), Path: project}
	_, err = git("", "clone", "--quiet", r.URL, r.Dir)
	return r, err
}

// CreateNamespace makes a namespace that is removed with the test.
func (f *Fixture) CreateNamespace(name string) {
	f.T.Helper()
	namespaces := f.Kube.CoreV1().Namespaces()
	_, err := namespaces.Create(f.T.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		err := namespaces.Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			f.T.Error(err)
		}
	})
}
