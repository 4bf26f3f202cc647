package scenarios

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/e2e/harness"
)

// bind gives a user of the cluster a Role in the fixture's namespace.
func bind(f *harness.Fixture, user string, rules ...rbacv1.PolicyRule) {
	f.T.Helper()
	meta := metav1.ObjectMeta{Name: "proxied", Namespace: f.Name}
	rbac := f.Kube.RbacV1()
	if _, err := rbac.Roles(f.Name).Create(f.T.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		f.T.Fatal(err)
	}
	_, err := rbac.RoleBindings(f.Name).Create(f.T.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
}

// readsConfigMaps is the rule that tests grant.
var readsConfigMaps = rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list"}}

func TestProxy_PeopleMayDoWhatTheClusterGrantsThem(t *testing.T) {
	t.Parallel()
	f, _ := proxied(t, asUser)
	user := f.NewUser("reader")
	f.SetAccess(user, f.Config.Path, harness.Developer)
	bind(f, "gitlab:user:"+user.Name, readsConfigMaps)
	kubeconfig := f.ProxyKubeconfig(f.Stack.KasProxyURL, f.PersonalBearer(f.ProxyToken(&user)))
	kubectl := f.KubectlWith(kubeconfig)

	who := kubectl.Must("auth", "whoami", "--output", "yaml")
	for _, part := range []string{
		"username: gitlab:user:" + user.Name, "- gitlab:user\n", fmt.Sprintf("- gitlab:project_role:%d:developer\n", f.Config.ID),
		"agent.gitlab.com/access_type:\n      - personal_access_token", fmt.Sprintf("agent.gitlab.com/id:\n      - %q", fmt.Sprint(f.Agent.ID)),
	} {
		if !strings.Contains(who, part) {
			t.Errorf("whoami has no %q:\n%s", part, who)
		}
	}
	if strings.Contains(who, "system:masters") {
		t.Errorf("it has the agent's own groups:\n%s", who)
	}
	if out := kubectl.Must("get", "configmaps", "--output", "name"); !strings.Contains(out, "configmap/kube-root-ca.crt") {
		t.Errorf("get says %q", out)
	}
	_, err := kubectl.Run("", "get", "secrets")
	if err := failedSaying(err, `User "gitlab:user:`+user.Name+`" cannot list resource "secrets"`); err != nil {
		t.Error(err)
	}
	if out, err := kubectl.Run("", "auth", "can-i", "delete", "configmaps"); err == nil || !strings.Contains(out, "no") {
		t.Errorf("can-i says %q, %v", out, err)
	}
	_, err = kubectl.Run("", "get", "configmaps", "--as=system:admin", "--as-group=system:masters")
	if err := failedSaying(err, "cannot impersonate"); err != nil {
		t.Error(err)
	}
}

// jobsToo lets CI jobs of the manifest project in as themselves.
func jobsToo(f *harness.Fixture) string {
	return "ci_access:\n  projects:\n  - {id: " + f.Manifests.Path + ", access_as: {ci_job: {}}}\n"
}

func letsJobsDoWhatTheyMay(t *testing.T, f *harness.Fixture, _ *harness.Kubectl) {
	t.Helper()
	f.Manifests.Write("README.md", "So that there is a branch.\n")
	f.Manifests.Push("Begin")
	job := f.StartJob(f.Manifests.Path, harness.JobOptions{Ref: "main", Environment: "production"})
	username := fmt.Sprintf("gitlab:ci_job:%d", job.ID)
	bind(f, username, readsConfigMaps)
	kubectl := f.KubectlWith(f.ProxyKubeconfig(f.Stack.KasProxyURL, f.JobBearer(job)))
	who := kubectl.Must("auth", "whoami", "--output", "yaml")
	for _, part := range []string{
		"username: " + username, "- gitlab:ci_job\n", fmt.Sprintf("- gitlab:project:%d\n", f.Manifests.ID),
		fmt.Sprintf("- gitlab:project_env:%d:production\n", f.Manifests.ID),
	} {
		if !strings.Contains(who, part) {
			t.Errorf("whoami has no %q:\n%s", part, who)
		}
	}
	kubectl.Must("get", "configmaps")
	_, err := kubectl.Run("", "get", "secrets")
	if err := failedSaying(err, `User "`+username+`" cannot list resource "secrets"`); err != nil {
		t.Error(err)
	}
	other := f.StartJob(f.Config.Path, harness.JobOptions{Ref: "main"}) // may, as whoever can write the configuration
	if out := f.KubectlWith(f.ProxyKubeconfig(f.Stack.KasProxyURL, f.JobBearer(other))).Must("auth", "whoami"); strings.Contains(out, "gitlab:ci_job") {
		t.Errorf("a job of the configuration project asks as %s", out)
	}
	f.FinishJob(f.Manifests.Path, job)
	f.Eventually(func() error {
		_, err := kubectl.Run("", "get", "configmaps")
		return failedSaying(err, "RoR does not accept the CI job token")
	})
}

func refusesStrangers(t *testing.T, f *harness.Fixture, _ *harness.Kubectl) {
	t.Helper()
	stranger := f.NewUser("stranger")
	other := f.NewSibling() // nobody may reach that one, and it is not connected
	for _, test := range []struct {
		name, bearer string
		says         []string
	}{
		{"an unknown token", f.PersonalBearer("glpat-wrong"), []string{"kas: RoR does not accept the personal access token"}},
		{"a bearer that is none of ours", "glpat-wrong", []string{"kas: ", "Authorization: Bearer pat:<agent id>:<personal access token>"}},
		{"an unknown job token", f.JobBearer(harness.Job{Token: "glcbt-wrong"}), []string{"kas: RoR does not accept the CI job token"}},
		{"a person who is no member", f.PersonalBearer(f.ProxyToken(&stranger)), []string{"kas: ", "user_access in the agent's configuration"}},
		{"an agent without user_access", other.PersonalBearer(f.ProxyToken(nil)), []string{"kas: ", "user_access in the agent's configuration"}},
		{"an unknown agent", "pat:987654321:" + f.ProxyToken(nil), []string{"kas: ", "there is no such agent"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := f.KubectlWith(f.ProxyKubeconfig(f.Stack.KasProxyURL, test.bearer)).Run("", "get", "--raw", "/api/v1/namespaces")
			if err := failedSaying(err, test.says...); err != nil {
				t.Error(err)
			}
		})
	}
}

// leave takes a person's access away while the person watches. New requests are refused soon;
// the watch is for the caller to wait for.
func leave(f *harness.Fixture) (watch *harness.RunningKubectl) {
	f.T.Helper()
	user := f.NewUser("leaver")
	f.SetAccess(user, f.Config.Path, harness.Developer)
	kubeconfig := f.ProxyKubeconfig(f.Stack.KasProxyURL, f.PersonalBearer(f.ProxyToken(&user)))
	watch = f.KubectlWith(kubeconfig).Start("get", "configmaps", "--watch")
	watch.WaitSaid("kube-root-ca.crt")
	f.SetAccess(user, f.Config.Path, harness.Reporter)
	soon(f, kubeconfig, http.StatusForbidden)
	return watch
}

func refusesRevokedTokens(t *testing.T, f *harness.Fixture, _ *harness.Kubectl) {
	t.Helper()
	token := f.ProxyToken(nil)
	kubeconfig := f.ProxyKubeconfig(f.Stack.KasProxyURL, f.PersonalBearer(token))
	soon(f, kubeconfig, http.StatusOK)
	f.RevokeToken(token)
	soon(f, kubeconfig, http.StatusUnauthorized)
}

// soon waits until requests are answered so. kas believes RoR for two seconds here; the rest
// is for a busy machine, on which one request alone may take several.
func soon(f *harness.Fixture, kubeconfig string, want int) {
	f.T.Helper()
	base, c := client(f, kubeconfig)
	begun := time.Now()
	f.Eventually(func() error { return isStatus(f, c, base+"/version", want) })
	if took := time.Since(begun); took > 30*time.Second {
		f.T.Errorf("it takes %s until the answer is %d", took, want)
	}
}

// absent is a kubectl that asks an agent, which is not there any more.
func absent(f *harness.Fixture) *harness.RunningKubectl {
	f.T.Helper()
	s := f.NewSibling()
	commit := s.ConfigureFile(asAgent(s))
	s.Agentk = s.NewAgentk("agentk")
	s.Start(s.Agentk)
	kubeconfig := s.ProxyKubeconfig(s.Stack.KasProxyURL, s.PersonalBearer(s.ProxyToken(nil)))
	letIn(s, commit, kubeconfig)
	if err := s.Agentk.Stop(); err != nil {
		s.T.Fatal(err)
	}
	return s.KubectlWith(kubeconfig).Start("get", "--raw", "/version")
}
