package scenarios

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// doctor runs kasctl doctor for the fixture's agent.
func doctor(f *harness.Fixture, args ...string) (status int, output string) {
	f.T.Helper()
	return kasctl(f, "", append([]string{"doctor", f.Config.Path + ":" + f.Name}, args...)...)
}

// lineOf is the line about a check that contains a text; empty: there is none.
func lineOf(output, verdict, check, says string) string {
	for line := range strings.Lines(output) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == verdict && strings.Contains(line, check) && strings.Contains(line, says) {
			return line
		}
	}
	return ""
}

func TestDoctor_AHealthyAgent(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	f.Eventually(func() error { // the tunnel may come a moment after the rest
		status, output := doctor(f)
		for _, check := range []string{
			"connection", "tunnel", "round trip", "clock", "disconnections", "agentk", "API server", "leader", "permissions", "configuration", "project",
		} {
			if lineOf(output, "ok", check, "") == "" {
				return fmt.Errorf("%s is not ok:\n%s", check, output)
			}
		}
		if status != 0 || strings.Contains(output, "FAIL") {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		return nil
	})
	f.Eventually(func() error { // a busy machine may lose pings
		if status, output := doctor(f, "-o", "json"); status != 0 || !strings.Contains(output, `"verdict": "VERDICT_OK"`) {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		return nil
	})
}

func TestDoctor_SaysWhatAgentkMayNotDo(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("b.yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: b\n")
	commit := f.Manifests.Push("Create")
	everything := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	account := f.NewAccount("agentk",
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: everything},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "create", "patch", "delete"}},
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: everything})
	f.Agentk = f.NewAgentkWith("agentk", func(cfg *stack.AgentkConfig) { cfg.Kubeconfig = account.Kubeconfig })
	f.Start(f.Agentk)
	f.WaitStatus(harness.Is(syncstatus.State_STATE_PARTIAL, commit))
	who := "system:serviceaccount:" + f.AgentNamespace + ":agentk"
	f.Eventually(func() error {
		status, output := doctor(f)
		line := lineOf(output, "FAIL", "permission", "agentk may not list, watch secrets of the core group in all namespaces")
		if status != 1 || !strings.Contains(line, who+`: - {apiGroups: [""], resources: ["secrets"], verbs: ["list", "watch"]}`) {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		if strings.Count(output, "FAIL") != 1 || lineOf(output, "warn", "project", "Partial") == "" {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		return nil
	})

	account.Grant("secrets", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list", "watch"}})
	f.Eventually(func() error {
		if status, output := doctor(f); status != 0 || lineOf(output, "ok", "permissions", who) == "" {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		return nil
	})
}

// killedWords are in what kas says of an agent that was killed.
const killedWords = "closed from the agent's side: agentk was stopped or killed"

func TestDoctor_SaysWhenAndWhyAnAgentLeft(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	f.Eventually(func() error {
		if status, output := doctor(f); status != 1 || lineOf(output, "FAIL", "connection", "not connected, and never was") == "" {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		return nil
	})
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	f.WaitSynced(commit)

	killed := time.Now().UTC()
	f.Agentk.Kill()
	var line string
	f.Eventually(func() error {
		status, output := doctor(f)
		line = lineOf(output, "FAIL", "connection", "not connected since ")
		if status != 1 || line == "" || !strings.Contains(line, killedWords) || !strings.Contains(line, "see in the cluster whether agentk runs") {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		return nil
	})
	_, after, _ := strings.Cut(line, "since ")
	at, err := time.Parse(time.RFC3339, strings.Fields(after)[0])
	if err != nil || at.Before(killed.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute)) {
		t.Errorf("%v: it was killed at %s: %s", err, killed, line)
	}

	f.Start(f.Agentk)
	f.Eventually(func() error { // which kas remembers
		if status, output := doctor(f, "-o", "json"); status != 0 || !strings.Contains(output, killedWords) {
			return fmt.Errorf("exit status %d:\n%s", status, output)
		}
		return nil
	})
}

func TestDoctor_IsForWhoMaySeeTheAgent(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	stranger := f.NewUser("stranger")
	path := fmt.Sprintf("/projects/%d/cluster_agents/%d/doctor", f.Config.ID, f.Agent.ID)
	theirs := &stack.Client{URL: f.Stack.RorURL, Token: stranger.Token}
	if err := theirs.Do(t.Context(), http.MethodGet, path, nil, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a stranger gets %v", err)
	}
	f.SetAccess(stranger, f.Config.Path, harness.Developer)
	var found struct {
		Checks []struct{ Name, Verdict string }
	}
	if err := theirs.Do(t.Context(), http.MethodGet, path, nil, &found); err != nil {
		t.Fatal(err)
	}
	if len(found.Checks) == 0 || found.Checks[0].Verdict != railsrpc.Verdict_VERDICT_FAIL.String() {
		t.Errorf("got %v", found)
	}
}

func TestDoctor_AnswersOfAnAgentThatAnotherKasHas(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	r := f.NewReplicas(2, time.Hour)
	f.Agentk = f.NewAgentkOf(r.Kas[0].AgentAddress, "agentk")
	f.Start(f.Agentk)
	r.WaitStatus(f, 1, harness.Is(syncstatus.State_STATE_SYNCED, commit))

	client := railsrpc.NewAgentDiagnosticsClient(f.DialAPI(r.Kas[1].APIAddress))
	ask := func(check func(*railsrpc.DiagnoseResponse) bool) {
		t.Helper()
		f.Eventually(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), harness.AnswerTimeout)
			defer cancel()
			found, err := client.Diagnose(ctx, &railsrpc.DiagnoseRequest{AgentId: f.Agent.ID})
			if err != nil {
				return err
			}
			if !check(found) {
				return fmt.Errorf("got %v", found)
			}
			return nil
		})
	}
	has := "grpc://" + strings.TrimPrefix(r.Between[0].Address, "grpc://")
	ask(func(found *railsrpc.DiagnoseResponse) bool {
		views := found.GetKas()
		if len(views) != 2 || len(views[0].GetConnections()) != 0 || views[1].GetUrl() != has || len(views[1].GetConnections()) != 1 {
			return false
		}
		p := views[1].GetPings() // which that kas has sent
		return p.GetSent() > 0 && p.GetLost() == 0 && found.GetAgent().GetPermissions().GetChecked() > 0 && found.GetAgent().GetLeadership().GetSelf()
	})

	f.Agentk.Kill()
	ask(func(found *railsrpc.DiagnoseResponse) bool { // that kas remembers
		first := found.GetChecks()[0]
		return first.GetVerdict() == railsrpc.Verdict_VERDICT_FAIL && first.GetName() == "connection" && strings.Contains(first.GetDetail(), killedWords)
	})
}
