package harness

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ProxyToken makes a personal access token that is good for the Kubernetes API proxy and
// nothing else, of a user, or with nil of the administrator.
func (f *Fixture) ProxyToken(u *User) string {
	f.T.Helper()
	client := *f.Client()
	if u != nil {
		client.Token = u.Token
	}
	var token struct {
		Token string `json:"token"`
	}
	err := client.Do(f.T.Context(), http.MethodPost, "/user/personal_access_tokens",
		map[string]any{"name": "proxy", "scopes": []string{"k8s_proxy"}, "expires_at": time.Now().AddDate(0, 0, 2).Format(time.DateOnly)}, &token)
	if err != nil {
		f.T.Fatal(err)
	}
	return token.Token
}

// RevokeToken ends a personal access token.
func (f *Fixture) RevokeToken(token string) {
	f.T.Helper()
	client := *f.Client()
	client.Token = token
	if err := client.Do(f.T.Context(), http.MethodDelete, "/personal_access_tokens/self", nil, nil); err != nil {
		f.T.Fatal(err)
	}
}

// Job is a running job of CI.
type Job struct {
	ID int64 `json:"id"`
	// Token is the job's, as CI_JOB_TOKEN holds it.
	Token string `json:"token"`
}

// JobOptions of StartJob. Ref is required.
type JobOptions struct {
	Ref         string `json:"ref"`
	Environment string `json:"environment,omitempty"`
	// Tier of the environment. Default: RoR guesses by its name.
	Tier string `json:"tier,omitempty"`
}

// StartJob starts a CI job of a project.
func (f *Fixture) StartJob(project string, o JobOptions) Job {
	f.T.Helper()
	var j Job
	if err := f.Client().Do(f.T.Context(), http.MethodPost, "/projects/"+url.PathEscape(project)+"/jobs", o, &j); err != nil {
		f.T.Fatal(err)
	}
	return j
}

// FinishJob ends a CI job, and its token.
func (f *Fixture) FinishJob(project string, j Job) {
	f.T.Helper()
	err := f.Client().Do(f.T.Context(), http.MethodPost, fmt.Sprintf("/projects/%s/jobs/%d/finish", url.PathEscape(project), j.ID), nil, nil)
	if err != nil {
		f.T.Fatal(err)
	}
}

// PersonalBearer is what a person shows the proxy for the fixture's agent; token is a
// personal access token.
func (f *Fixture) PersonalBearer(token string) string {
	return fmt.Sprintf("pat:%d:%s", f.Agent.ID, token)
}

// JobBearer is what a CI job shows the proxy for the fixture's agent.
func (f *Fixture) JobBearer(j Job) string {
	return fmt.Sprintf("ci:%d:%s", f.Agent.ID, j.Token)
}

// ProxyKubeconfig writes a kubeconfig for the proxy at proxyURL (of the Stack, or of a Kas)
// and returns its path.
func (f *Fixture) ProxyKubeconfig(proxyURL, bearer string) string {
	f.T.Helper()
	config := api.NewConfig()
	config.Clusters["proxy"] = &api.Cluster{Server: proxyURL, CertificateAuthority: f.Stack.KasProxyCAFile}
	config.AuthInfos["proxy"] = &api.AuthInfo{Token: bearer}
	config.Contexts["proxy"] = &api.Context{Cluster: "proxy", AuthInfo: "proxy", Namespace: f.Name}
	config.CurrentContext = "proxy"
	file := filepath.Join(f.T.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		f.T.Fatal(err)
	}
	return file
}

// ProxyClient is an HTTP client for the proxies, without credentials.
func (f *Fixture) ProxyClient() *http.Client {
	f.T.Helper()
	ca, err := os.ReadFile(f.Stack.KasProxyCAFile)
	if err != nil {
		f.T.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	f.T.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// proxyAddress is HOST:PORT of a proxy's URL.
func proxyAddress(proxyURL string) string {
	u, err := url.Parse(proxyURL)
	if err != nil {
		return ""
	}
	return u.Host
}
