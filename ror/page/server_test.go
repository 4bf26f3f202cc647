package page_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror/clusters"
	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/fakekas"
	"github.com/kas-agentk/kas/ror/hosting"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/page"
	"github.com/kas-agentk/kas/ror/registry"
)

var update = flag.Bool("update", false, "write the golden files anew")

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// neighbours plays Gitaly and kas.
type neighbours struct{ fakekas.Kas }

func (n *neighbours) Create(context.Context, registry.Project) error { return nil }

// house is the pages over HTTP, with users root (admin) and ada, and agent dev of
// project root/config.
type house struct {
	t      *testing.T
	reg    *registry.Registry
	url    string
	beside *neighbours
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return newHouseAt(t, "http://ror", "")
}

// newHouseAt is newHouse at a URL, with kas's proxy at another.
func newHouseAt(t *testing.T, externalURL, proxyURL string) *house {
	t.Helper()
	reg, err := registry.Open(t.Context(), registry.Config{
		Path: filepath.Join(t.TempDir(), "ror.db"), Clock: clocktesting.NewFakePassiveClock(start), PasswordCost: bcrypt.MinCost,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	for _, name := range []string{"root", "ada"} {
		_, err := reg.CreateUser(t.Context(), registry.NewUser{Username: name, Password: name + "-password", Admin: name == "root"})
		require.NoError(t, err)
	}
	p, err := reg.CreateProject(t.Context(), registry.NewProject{Namespace: "root", Path: "config", CreatorID: 1, Description: "<b>bold</b>"})
	require.NoError(t, err)
	_, err = reg.CreateAgent(t.Context(), p, "dev", 1)
	require.NoError(t, err)
	h := &house{t: t, reg: reg, beside: &neighbours{}}
	pages, err := page.NewServer(page.Config{
		ExternalURL: externalURL, KasAgentAddress: "grpc://kas:8150", KasProxyURL: proxyURL, Log: testkit.Logger(t),
		IsUnavailable: func(error) bool { return false }, Clock: clocktesting.NewFakePassiveClock(start),
	}, reg, hosting.NewProjects(reg, h.beside), overview.New(reg, h.beside), control.New(reg, h.beside, testkit.Logger(t)), clusters.New(h.beside))
	require.NoError(t, err)
	srv := httptest.NewServer(pages)
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

// browser keeps cookies and does not follow redirects.
type browser struct {
	h      *house
	client *http.Client
}

func (h *house) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(h.t, err)
	return &browser{h, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// answer is a response whose body is read.
type answer struct {
	StatusCode int
	Header     http.Header
	cookies    []*http.Cookie
}

func (b *browser) send(r *http.Request) (answer, string) {
	t := b.h.t
	t.Helper()
	res, err := b.client.Do(r)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return answer{res.StatusCode, res.Header, res.Cookies()}, string(body)
}

func (b *browser) get(path string) (answer, string) {
	b.h.t.Helper()
	r, err := http.NewRequestWithContext(b.h.t.Context(), http.MethodGet, b.h.url+path, http.NoBody)
	require.NoError(b.h.t, err)
	return b.send(r)
}

func (b *browser) post(path string, form url.Values) (answer, string) {
	b.h.t.Helper()
	r, err := http.NewRequestWithContext(b.h.t.Context(), http.MethodPost, b.h.url+path, strings.NewReader(form.Encode()))
	require.NoError(b.h.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.send(r)
}

// signIn returns a browser in which the user is signed in, and its CSRF token.
func (h *house) signIn(name string) (*browser, string) {
	h.t.Helper()
	b := h.browser()
	res, body := b.post("/-/sign_in", url.Values{"username": {name}, "password": {name + "-password"}, "return_to": {"/"}})
	require.Equal(h.t, http.StatusSeeOther, res.StatusCode, body)
	_, body = b.get("/-/projects")
	m := regexp.MustCompile(`name="csrf" value="([0-9a-f]+)"`).FindStringSubmatch(body)
	require.Len(h.t, m, 2)
	return b, m[1]
}

// golden compares the main part of a page with testdata/<name>.html.
func golden(t *testing.T, name, body string) {
	t.Helper()
	_, main, found := strings.Cut(body, `<main id="main">`)
	require.True(t, found)
	main, _, _ = strings.Cut(main, "</main>")
	main = regexp.MustCompile(`value="[0-9a-f]{64}"`).ReplaceAllString(strings.TrimSpace(main)+"\n", `value="CSRF"`)
	file := filepath.Join("testdata", name+".html")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(main), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), main, "run with -update if this is meant")
}

func TestSignIn_ComesBackToThePage(t *testing.T) {
	h := newHouse(t)
	b := h.browser()
	res, _ := b.get("/root/config?x=1")
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	require.Equal(t, "/-/sign_in?return_to=%2Froot%2Fconfig%3Fx%3D1", res.Header.Get("Location"))
	res, body := b.get(res.Header.Get("Location"))
	require.Equal(t, http.StatusOK, res.StatusCode)
	golden(t, "sign_in", body)

	form := url.Values{"username": {"ada"}, "password": {"wrong"}, "return_to": {"/root/config?x=1"}}
	res, body = b.post("/-/sign_in", form)
	require.Equal(t, http.StatusUnauthorized, res.StatusCode)
	require.Contains(t, body, "User name or password is wrong.")
	form.Set("password", "ada-password")
	res, _ = b.post("/-/sign_in", form)
	require.Equal(t, "/root/config?x=1", res.Header.Get("Location"))
	for _, cookie := range res.cookies {
		require.True(t, cookie.HttpOnly)
		require.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
	}
	for _, elsewhere := range []string{"https://evil.example", "//evil.example", `/\evil.example`, ""} {
		form.Set("return_to", elsewhere)
		res, _ = b.post("/-/sign_in", form)
		require.Equal(t, "/", res.Header.Get("Location"), elsewhere)
	}
}

func TestSignIn_GivesTheBrowserWhatKasAsksFor(t *testing.T) {
	for _, row := range []struct {
		name, ror, proxy string
		path, domain     string
		connect          string
	}{
		{"no proxy", "http://ror.example", "", "/", "", "connect-src 'self';"},
		{"a proxy on another port", "https://ror.example", "https://ror.example:8154/k8s-proxy/", "/k8s-proxy", "", "connect-src 'self' https://ror.example:8154;"},
		{"a proxy on a subdomain", "https://ror.example", "https://kas.ror.example/k8s-proxy", "/k8s-proxy", "ror.example", "connect-src 'self' https://kas.ror.example;"},
		{"a proxy on another host", "https://ror.example", "https://kasror.example/", "/", "", "connect-src 'self' https://kasror.example;"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHouseAt(t, row.ror, row.proxy)
			res, _ := h.browser().post("/-/sign_in", url.Values{"username": {"root"}, "password": {"root-password"}})
			require.Equal(t, http.StatusSeeOther, res.StatusCode)
			require.Contains(t, res.Header.Get("Content-Security-Policy"), row.connect)
			cookies := map[string]*http.Cookie{}
			for _, c := range res.cookies {
				cookies[c.Name] = c
			}
			kas := cookies["_gitlab_kas"]
			require.Equal(t, row.path, kas.Path)
			require.Equal(t, row.domain, kas.Domain)
			require.Equal(t, strings.HasPrefix(row.ror, "https"), kas.Secure)
			require.Equal(t, "/", cookies["_ror_session"].Path)
			require.Empty(t, cookies["_ror_session"].Domain, "nobody else gets that one")

			// A page's script finds what goes with the cookie.
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/", http.NoBody)
			require.NoError(t, err)
			r.AddCookie(cookies["_ror_session"])
			_, body := h.browser().send(r)
			m := regexp.MustCompile(`<meta name="csrf-token" content="([0-9a-f]+)">`).FindStringSubmatch(body)
			require.Len(t, m, 2)
			user, err := h.reg.UserByKasKey(t.Context(), kas.Value, m[1])
			require.NoError(t, err)
			require.Equal(t, "root", user.Username)
		})
	}
}

func TestAgent_TellsHowToMakeAKubeconfig(t *testing.T) {
	h := newHouseAt(t, "http://ror", "https://kas/k8s-proxy/")
	b, _ := h.signIn("root")
	_, body := b.get("/root/config/-/cluster_agents/dev")
	require.Contains(t, body, "through kas at <code>https://kas/k8s-proxy/</code>")
	require.Contains(t, body, "kasctl kubeconfig root/config:dev --output kubeconfig")
	b, _ = newHouse(t).signIn("root")
	_, body = b.get("/root/config/-/cluster_agents/dev")
	require.NotContains(t, body, "kubectl")
}

func TestSignOut_EndsTheSession(t *testing.T) {
	h := newHouse(t)
	b, csrf := h.signIn("ada")
	server, err := url.Parse(h.url)
	require.NoError(t, err)
	before := b.client.Jar.Cookies(server)
	res, _ := b.post("/-/sign_out", url.Values{"csrf": {csrf}})
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	b.client.Jar.SetCookies(server, before) // as a thief would
	res, _ = b.get("/")
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	require.Contains(t, res.Header.Get("Location"), "/-/sign_in")
}

func TestForms_NeedTheTokenAndThisOrigin(t *testing.T) {
	h := newHouse(t)
	b, csrf := h.signIn("root")
	for _, wrong := range []string{"", strings.Repeat("0", len(csrf))} {
		res, _ := b.post("/-/projects", url.Values{"csrf": {wrong}, "namespace": {"root"}, "path": {"x"}})
		require.Equal(t, http.StatusForbidden, res.StatusCode)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url+"/-/sign_in", http.NoBody)
	require.NoError(t, err)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	res, _ := b.send(r)
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	_, err = h.reg.FindProject(t.Context(), "root/x")
	require.ErrorIs(t, err, registry.ErrNotFound)
}

func TestEveryPage_HasAStrictPolicy(t *testing.T) {
	h := newHouse(t)
	b, _ := h.signIn("root")
	for _, path := range []string{"/", "/-/projects", "/root/config", "/root/config/-/cluster_agents/dev", "/root/config/-/cluster_agents/dev/cluster", "/missing", "/-/assets/live.js", "/-/assets/style.css"} {
		res, body := b.get(path)
		policy := res.Header.Get("Content-Security-Policy")
		require.Contains(t, policy, "default-src 'none'", path)
		require.NotContains(t, policy, "unsafe", path)
		require.NotContains(t, strings.ReplaceAll(body, "http://ror", ""), "http://", "%s loads nothing from elsewhere", path)
		require.NotContains(t, body, " style=", path)
		require.NotRegexp(t, `\son[a-z]+=`, body, path)
	}
}

func TestAgents_ListShowsConnectionAndWorstState(t *testing.T) {
	h := newHouse(t)
	b, _ := h.signIn("root")
	h.beside.Connected = []*railsrpc.ConnectedAgent{{AgentId: 1, Version: "v1.2.3"}, {AgentId: 1, Version: "v1.2.3"}}
	for project, state := range map[string]syncstatus.State{"a": syncstatus.State_STATE_SYNCED, "b": syncstatus.State_STATE_PARTIAL, "c": syncstatus.State_STATE_SYNCING} {
		h.status(&syncstatus.ProjectStatus{ProjectId: project, State: state})
	}
	_, body := b.get("/")
	golden(t, "agents", body)
	h.beside.Away = errors.New("down")
	_, body = b.get("/")
	require.Contains(t, body, "who is connected is not known")
	require.NotContains(t, body, ">Connected<")

	ada, _ := h.signIn("ada")
	_, body = ada.get("/")
	require.NotContains(t, body, "cluster_agents/dev")
}

func (h *house) status(s *syncstatus.ProjectStatus) {
	h.t.Helper()
	require.NoError(h.t, h.reg.ApplyUpdate(h.t.Context(), &syncstatus.Update{AgentId: 1, Update: &syncstatus.Update_Status{Status: s}}))
}

func TestAgent_ShowsWhoIsAtFaultFirst(t *testing.T) {
	h := newHouse(t)
	b, _ := h.signIn("root")
	h.beside.Connected = []*railsrpc.ConnectedAgent{{
		AgentId: 1, Version: "v1", PodNamespace: "gitlab", PodName: "agentk-0", KubernetesVersion: "v1.34.4", ConnectedAt: timestamppb.New(start),
	}}
	require.NoError(t, h.reg.ApplyUpdate(t.Context(), &syncstatus.Update{AgentId: 1, Update: &syncstatus.Update_Configuration{Configuration: &syncstatus.ConfigurationStatus{
		CommitId: "1111111111", Error: &syncstatus.FileError{Path: ".gitlab/agents/dev/config.yaml", Line: 3, Message: `unknown key "gitop"`},
	}}}))
	object := func(name string, action syncstatus.Action, health syncstatus.Health, line uint32, message string) *syncstatus.ObjectStatus {
		return &syncstatus.ObjectStatus{
			Id: &syncstatus.ObjectID{Group: "apps", Kind: "Deployment", Namespace: "web", Name: name}, Version: "v1",
			Action: action, Health: health, SourcePath: "web.yaml", SourceLine: line, Message: message,
		}
	}
	h.status(&syncstatus.ProjectStatus{
		AgentId: 1, AgentName: "dev", ProjectId: "root/config", ProjectPath: "root/config", State: syncstatus.State_STATE_PARTIAL, Connected: true,
		Message: "1 object failed", Ref: "branch main", WantedCommit: "abcdef0123456789", AppliedCommit: "0123456789abcdef",
		Times:  &syncstatus.Times{DetectedAt: timestamppb.New(start), SentAt: timestamppb.New(start.Add(20 * time.Millisecond))},
		Counts: &syncstatus.Counts{Total: 3, Created: 1, Failed: 1, Unhealthy: 1},
		Errors: []*syncstatus.FileError{{Path: "broken.yaml", Line: 7, Message: "did not find expected key"}},
		Objects: []*syncstatus.ObjectStatus{
			object("good", syncstatus.Action_ACTION_CREATED, syncstatus.Health_HEALTH_CURRENT, 1, ""),
			object("starting", syncstatus.Action_ACTION_UNCHANGED, syncstatus.Health_HEALTH_IN_PROGRESS, 2, "0 of 2 ready"),
			object("bad", syncstatus.Action_ACTION_FAILED, syncstatus.Health_HEALTH_UNKNOWN, 3, "<script>alert(1)</script> is invalid"),
		},
	})
	_, body := b.get("/root/config/-/cluster_agents/dev")
	golden(t, "agent", body)
	_, body = b.get("/root/config")
	golden(t, "project", body)
}

func TestProjectPage_GivesNoWordToAgentsThatMayNotReadIt(t *testing.T) {
	h := newHouse(t)
	ada, err := h.reg.UserByName(t.Context(), "ada")
	require.NoError(t, err)
	own, err := h.reg.CreateProject(t.Context(), registry.NewProject{Namespace: "ada", Path: "own", CreatorID: ada.ID})
	require.NoError(t, err)
	agent, err := h.reg.CreateAgent(t.Context(), own, "intruder", ada.ID)
	require.NoError(t, err)
	require.NoError(t, h.reg.ApplyUpdate(t.Context(), &syncstatus.Update{AgentId: agent.ID, Update: &syncstatus.Update_Status{
		Status: &syncstatus.ProjectStatus{ProjectId: "root/config", Message: "listen to me"},
	}}))
	b, _ := h.signIn("root")
	_, body := b.get("/root/config")
	require.NotContains(t, body, "listen to me")
}

func TestPages_HideWhatTheUserMayNotSee(t *testing.T) {
	h := newHouse(t)
	b, csrf := h.signIn("ada")
	for _, path := range []string{"/root/config", "/root/config/-/cluster_agents/dev", "/root/missing", "/root/config/-/anything"} {
		res, body := b.get(path)
		require.Equal(t, http.StatusNotFound, res.StatusCode, path)
		require.NotContains(t, body, "bold")
	}
	res, _ := b.post("/root/config/-/cluster_agents", url.Values{"csrf": {csrf}, "name": {"mine"}})
	require.Equal(t, http.StatusNotFound, res.StatusCode)

	_, err := h.reg.SetMember(t.Context(), 1, 2, registry.Developer)
	require.NoError(t, err)
	res, body := b.get("/root/config")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.NotContains(t, body, "Register an agent")
	require.Contains(t, body, "&lt;b&gt;bold&lt;/b&gt;")
	res, _ = b.post("/root/config/-/cluster_agents", url.Values{"csrf": {csrf}, "name": {"mine"}})
	require.Equal(t, http.StatusForbidden, res.StatusCode)
}

func TestAgentForms_RegisterAndRevoke(t *testing.T) {
	h := newHouse(t)
	b, csrf := h.signIn("root")
	res, _ := b.post("/-/projects", url.Values{"csrf": {csrf}, "namespace": {"root"}, "path": {"app"}, "visibility": {"internal"}})
	require.Equal(t, "/root/app", res.Header.Get("Location"))

	res, body := b.post("/root/app/-/cluster_agents", url.Values{"csrf": {csrf}, "name": {"prod"}})
	require.Equal(t, http.StatusCreated, res.StatusCode)
	token := regexp.MustCompile(`glagent-[0-9A-Z]+`).FindString(body)
	require.Contains(t, body, "agentk --kas-address=grpc://kas:8150 --token-file=agentk-token")
	agent, err := h.reg.AgentByToken(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, "prod", agent.Name)

	_, body = b.get("/root/app/-/cluster_agents/prod")
	require.NotContains(t, body, token)
	revoke := regexp.MustCompile(`action="(/root/app/-/cluster_agents/prod/tokens/\d+/revoke)"`).FindStringSubmatch(body)
	require.Len(t, revoke, 2)
	res, _ = b.post(revoke[1], url.Values{"csrf": {csrf}})
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	_, err = h.reg.AgentByToken(t.Context(), token)
	require.ErrorIs(t, err, registry.ErrUnauthorized)

	res, _ = b.post("/root/app/-/cluster_agents/prod/tokens", url.Values{"csrf": {csrf}, "name": {"second"}})
	require.Equal(t, http.StatusCreated, res.StatusCode)
	res, body = b.post("/root/app/-/cluster_agents", url.Values{"csrf": {csrf}, "name": {"Prod"}})
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	require.Contains(t, body, "lowercase letters")
}
