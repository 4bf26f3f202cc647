package demo

import (
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kas-agentk/kas/sandbox/stack"
)

// proxyPrefix is where the Kubernetes API proxy begins, below $KAS_PROXY_URL.
const proxyPrefix = "/k8s-proxy/"

// variable of the environment that a user's shell gets.
type variable struct{ name, value string }

// environment is everything that somebody needs to use the demo, or to test it.
func (d *demo) environment() []variable {
	return []variable{
		{"ROR_URL", d.stack.RorURL},
		{"ROR_USER", stack.User},
		{"ROR_PASSWORD", d.stack.Password},
		{"ROR_TOKEN", d.stack.Token},
		{"GIT_URL", d.gitURL(manifestProject)},
		{"CONFIG_GIT_URL", d.gitURL(configProject)},
		{"CONFIG_PROJECT", url.PathEscape(configProject)},
		{"MANIFEST_PROJECT", url.PathEscape(manifestProject)},
		{"AGENT_ID", strconv.FormatInt(d.sample.agentID, 10)},
		{"AGENT_NAME", agentName},
		{"KUBECONFIG", d.cluster.kubeconfig},
		{"KUBECTL", d.cluster.kubectl},
		{"KAS_AGENT_ADDRESS", d.stack.KasAgentAddress},
		{"KAS_API_ADDRESS", d.stack.KasAPIAddress},
		{"KAS_API_SECRET_FILE", d.stack.KasSecretFile},
		{"KAS_PROXY_URL", strings.TrimSuffix(d.stack.KasProxyURL, proxyPrefix)},
		{"KAS_PROXY_CA_FILE", d.stack.KasProxyCAFile},
		{"KAS_METRICS_URL", d.stack.KasMetricsURL},
		{"AGENTK_METRICS_URL", d.agentk.MetricsURL},
		{"ROR_METRICS_URL", d.stack.RorMetricsURL},
	}
}

// writeEnv writes the file that says that the demo is ready. It is whole when it is
// there.
func (d *demo) writeEnv() error {
	var text strings.Builder
	variables := d.environment()
	names := make([]string, 0, len(variables))
	for _, v := range variables {
		_, _ = fmt.Fprintf(&text, "%s=%s\n", v.name, shellQuote(v.value))
		names = append(names, v.name)
	}
	_, _ = fmt.Fprintf(&text, "export %s\n", strings.Join(names, " "))
	temp := d.path("env.new")
	if err := os.WriteFile(temp, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write env: %w", err)
	}
	if err := os.Rename(temp, d.path("env")); err != nil {
		return fmt.Errorf("write env: %w", err)
	}
	return nil
}

// shellQuote quotes what a shell would take apart.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:%@+,=", r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

const whatToTry = `
Ready in %[1]s.

  page      %[2]s  (user %[3]s, password %[4]s)
  manifests %[5]s
  agent     %[6]s  (its configuration: %[7]s)
  cluster   KUBECONFIG=%[8]s
  logs      %[9]s

Try it, in another terminal:

  . %[10]s
  %[11]s status
  $KUBECTL get deployments,services,configmaps,announcements -A

  git clone "$GIT_URL" /tmp/manifests && cd /tmp/manifests
  sed -i 's/replicas: .*/replicas: 5/' web/deployment.yaml
  git commit -qam 'Five of them' && git push
  $KUBECTL -n web get deployment web --watch

  %[11]s kubeconfig %[6]s --output /tmp/through-kas
  $KUBECTL --kubeconfig /tmp/through-kas get pods -A

Ctrl-C ends the demo and keeps its state; "make demo-clean" removes that.
`

// showWhatToTry tells where everything is and what to do with it.
func (d *demo) showWhatToTry() {
	_, _ = fmt.Fprintf(d.cfg.Out, whatToTry,
		time.Since(d.began).Round(time.Second), d.stack.RorURL, stack.User, d.stack.Password,
		d.gitURL(manifestProject), agentName, d.gitURL(configProject),
		d.cluster.kubeconfig, d.cfg.Dir, shellQuote(d.path("env")), shellQuote(d.programs.Kasctl))
}
