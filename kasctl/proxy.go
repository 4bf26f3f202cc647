package kasctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kas-agentk/kas/internal/program"
)

// scopeK8sProxy is the scope that the proxy asks of a personal access token.
const scopeK8sProxy = "k8s_proxy"

// server returns where the proxy begins and, in PEM, who RoR says vouches for it, if it does.
func (k *kubeconfigOptions) server(ctx context.Context, c *client) (server string, authority []byte, err error) {
	server, from := k.proxyURL, "--proxy-url"
	if server == "" {
		if server, authority, err = c.proxy(ctx); err != nil {
			return "", nil, err
		}
		from = "RoR's address of the proxy"
	}
	u, err := url.Parse(server)
	switch {
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https":
		return "", nil, fmt.Errorf("%s %q: want https://HOST/k8s-proxy/", from, server)
	case u.Scheme == "http":
		return "", nil, fmt.Errorf("%s is %s, and kubectl sends tokens by https only: have kas, or a load balancer in front of it, serve the proxy by https, and name that with --proxy-url", from, server)
	}
	return server, authority, nil
}

// proxy asks RoR where the proxy is, and who vouches for its certificate.
func (c *client) proxy(ctx context.Context) (server string, authority []byte, err error) {
	body, err := c.get(ctx, nil, "metadata")
	if err != nil {
		return "", nil, err
	}
	var m struct {
		KAS struct {
			Enabled bool   `json:"enabled"`
			Proxy   string `json:"externalK8sProxyUrl"`
			// CA is ours, beyond GitLab.
			CA string `json:"externalK8sProxyCa"`
		} `json:"kas"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return "", nil, fmt.Errorf("metadata of RoR: %w", err)
	}
	switch {
	case m.KAS.Proxy != "" && m.KAS.CA != "":
		return m.KAS.Proxy, []byte(m.KAS.CA), nil
	case m.KAS.Proxy != "":
		return m.KAS.Proxy, nil, nil
	case !m.KAS.Enabled:
		return "", nil, fmt.Errorf("RoR at %s has no kas", c.base)
	}
	return "", nil, fmt.Errorf("RoR at %s does not know where kas's Kubernetes API proxy is: name it with --proxy-url", c.base)
}

// proxyTokenOptions say which personal access token goes into a kubeconfig.
type proxyTokenOptions struct {
	create bool
	days   int
	file   string
}

func (o *proxyTokenOptions) check() error {
	switch {
	case o.create && o.file != "":
		return errTwoTokens
	case !o.create && o.days != 1:
		return errDaysNoCreate
	case o.days < 1 || o.days > 365:
		return errDaysOutOfRange
	}
	return nil
}

// get returns a token that has the scope k8s_proxy.
func (o *proxyTokenOptions) get(ctx context.Context, c *client, now time.Time) (string, error) {
	switch {
	case o.create:
		return c.createProxyToken(ctx, now.UTC().AddDate(0, 0, o.days+1)) // ends as that day begins
	case o.file == "":
		return c.token, c.checkScope(ctx, "your token")
	}
	data, err := os.ReadFile(o.file)
	if err != nil {
		return "", program.Usage(fmt.Errorf("--proxy-token-file: %w", err))
	}
	theirs := *c
	if theirs.token = strings.TrimSpace(string(data)); theirs.token == "" {
		return "", program.Usage(fmt.Errorf("--proxy-token-file: %s is empty", o.file))
	}
	return theirs.token, theirs.checkScope(ctx, "the token in "+o.file)
}

// checkScope tells whether the proxy would take the client's token; what is what an error
// calls it.
func (c *client) checkScope(ctx context.Context, what string) error {
	body, err := c.get(ctx, nil, "personal_access_tokens", "self")
	if err != nil {
		return err
	}
	var token struct {
		Scopes []string `json:"scopes"`
	}
	if err := json.Unmarshal(body, &token); err != nil {
		return fmt.Errorf("scopes of the token: %w", err)
	}
	if !slices.Contains(token.Scopes, scopeK8sProxy) {
		return fmt.Errorf("%s has not got the scope %s (but %s): let kasctl create one that has, with --create-token, or create one at RoR and name a file that holds it with --proxy-token-file",
			what, scopeK8sProxy, strings.Join(token.Scopes, ", "))
	}
	return nil
}

// createProxyToken creates a token of the user that is good for the proxy only.
func (c *client) createProxyToken(ctx context.Context, until time.Time) (string, error) {
	body, err := c.post(ctx, map[string]any{
		"name": "kasctl kubeconfig", "scopes": []string{scopeK8sProxy}, "expires_at": until.Format(time.DateOnly),
	}, "user", "personal_access_tokens")
	var answered *answeredError
	if errors.As(err, &answered) && answered.code == http.StatusForbidden {
		return "", fmt.Errorf("RoR at %s lets your token create none (403): it needs the scope api: %s", c.base, answered.said)
	}
	if err != nil {
		return "", fmt.Errorf("create a token: %w", err)
	}
	var made struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(body, &made); err != nil {
		return "", fmt.Errorf("create a token: %w", err)
	}
	return made.Token, nil
}
