package scenarios

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kas-agentk/kas/e2e/harness"
)

// ages in a line of a table.
var ages = regexp.MustCompile(`(^| )([0-9]+[ydhms])+( |$)`)

// printed is what a program printed, each line with single blanks and without ages.
func printed(output string) []string {
	var lines []string
	for line := range strings.Lines(output) {
		line = strings.Join(strings.Fields(line), " ")
		lines = append(lines, ages.ReplaceAllString(line, "${1}AGE${3}"))
	}
	return lines
}

func TestClusterState_KasctlPrintsWhatKubectlPrints(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	apply(f, workload)
	kubectl(t, f, "--namespace", f.Name, "rollout", "status", "deployment/web", "--timeout=60s")
	agent := f.Config.Path + ":" + f.Name
	for _, args := range [][]string{
		{"configmaps"}, {"cm", "settings"}, {"deploy"}, {"deployments.apps", "-o", "wide"},
		{"pods", "-l", "app=web"}, {"po", "-o", "wide"}, {"svc"}, {"ingresses.networking.k8s.io"}, {"rs", "-o", "name"},
		{"configmaps", "--field-selector", "metadata.name=settings"}, {"roles.rbac.authorization.k8s.io", "reader"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			f := f.For(t)
			f.Eventually(func() error {
				want := kubectl(t, f, append([]string{"--namespace", f.Name, "get"}, args...)...)
				status, got := kasctl(f, "", append(append([]string{"get", agent}, args...), "-n", f.Name)...)
				if status != 0 {
					return fmt.Errorf("kasctl ends with %d: %s", status, got)
				}
				if diff := cmp.Diff(printed(want), printed(got)); diff != "" {
					return fmt.Errorf("what is printed differs (-kubectl +kasctl):\n%s", diff)
				}
				return nil
			})
		})
	}
	t.Run("an object as JSON", func(t *testing.T) {
		var want, got map[string]any
		if err := json.Unmarshal([]byte(kubectl(t, f, "--namespace", f.Name, "get", "cm", "settings", "-o", "json")), &want); err != nil {
			t.Fatal(err)
		}
		status, output := kasctl(f, "", "get", agent, "cm", "settings", "-n", f.Name, "-o", "json")
		if err := json.Unmarshal([]byte(output), &got); status != 0 || err != nil {
			t.Fatalf("kasctl ends with %d (%v): %s", status, err, output)
		}
		if diff := cmp.Diff(want["data"], got["data"]); diff != "" || got["kind"] != "ConfigMap" {
			t.Errorf("the data differ (-kubectl +kasctl):\n%s", diff)
		}
	})
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"an object that is not there":  {args: []string{"cm", "not-there", "-n", f.Name}, says: "not-there"},
		"a resource that is not there": {args: []string{"gizmos.example.com"}, says: "gizmos"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, output := kasctl(f, "", append([]string{"get", agent}, test.args...)...); status != 1 || !strings.Contains(output, test.says) {
				t.Errorf("kasctl ends with %d: %s", status, output)
			}
		})
	}
}

func TestClusterState_KasctlOfAllAgents(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	away := f.NewSibling()
	makeConfigMap(f, f.Name, "a", "1", map[string]string{"of": f.Name})
	owner := f.NewUser("owner")
	f.SetAccess(owner, f.Config.Path, harness.Developer)
	f.Eventually(func() error {
		status, output := kasctl(f, "", "get", "--all-agents", "configmaps", "-A", "-l", "of="+f.Name, "--token="+owner.Token)
		if status != 1 || !strings.Contains(output, away.Name) {
			return fmt.Errorf("kasctl ends with %d and does not tell of the agent that is away: %s", status, output)
		}
		for line := range strings.Lines(output) {
			if fields := strings.Fields(line); strings.Contains(line, f.Name) && strings.Contains(line, " a ") && len(fields) > 3 {
				return nil
			}
		}
		return fmt.Errorf("kasctl does not print the ConfigMap: %s", output)
	})
}
