package githttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror/gitaly"
	"github.com/kas-agentk/kas/ror/githttp"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with what it was asked, unless it fails.
type echo struct {
	before error // fails before the answer
	within error // fails in the middle of it
}

func (e *echo) InfoRefs(_ context.Context, p registry.Project, s gitaly.Service, protocol string, w io.Writer) error {
	return e.answer(w, fmt.Sprintf("refs of %s for %s, %s", p.FullPath, s, protocol))
}

func (e *echo) UploadPack(_ context.Context, p registry.Project, x gitaly.Exchange) error {
	return e.exchange(p.FullPath, x)
}

func (e *echo) ReceivePack(_ context.Context, p registry.Project, u registry.User, x gitaly.Exchange) error {
	return e.exchange(p.FullPath+" by "+u.Username, x)
}

func (e *echo) exchange(what string, x gitaly.Exchange) error {
	body, err := io.ReadAll(x.In)
	if err != nil {
		return err
	}
	return e.answer(x.Out, fmt.Sprintf("%s: %s, %s", what, body, x.Protocol))
}

func (e *echo) answer(w io.Writer, text string) error {
	if e.before != nil {
		return e.before
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return e.within
}

// house is the server over HTTP, with a private and a public project of root's.
type house struct {
	t      *testing.T
	reg    *registry.Registry
	server *httptest.Server
	echo   *echo
}

// in is the house for a subtest.
func (h *house) in(t *testing.T) *house {
	t.Helper()
	in := *h
	in.t = t
	return &in
}

func newHouse(t *testing.T) *house {
	t.Helper()
	reg, err := registry.Open(t.Context(), registry.Config{Path: filepath.Join(t.TempDir(), "ror.db"), PasswordCost: bcrypt.MinCost})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	for _, name := range []string{"root", "reporter", "stranger"} {
		_, err := reg.CreateUser(t.Context(), registry.NewUser{Username: name, Password: name + "-password", Admin: name == "root"})
		require.NoError(t, err)
	}
	for _, v := range []registry.Visibility{registry.Private, registry.Public} {
		p, err := reg.CreateProject(t.Context(), registry.NewProject{Namespace: "a/b", Path: string(v), Visibility: v, CreatorID: 1})
		require.NoError(t, err)
		_, err = reg.SetMember(t.Context(), p.ID, 2, registry.Reporter)
		require.NoError(t, err)
	}
	h := &house{t: t, reg: reg, echo: &echo{}}
	git := githttp.NewServer(githttp.Config{Log: testkit.Logger(t)}, reg, h.echo)
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !git.Handles(r) {
			http.Error(w, "not git", http.StatusTeapot)
			return
		}
		git.ServeHTTP(w, r)
	}))
	t.Cleanup(h.server.Close)
	return h
}

func (h *house) request(method, path, user, password string, body io.Reader) *http.Request {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.server.URL+path, body)
	require.NoError(h.t, err)
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	return r
}

// answer is a response whose body is read.
type answer struct {
	StatusCode int
	Header     http.Header
}

func (h *house) send(r *http.Request) (answer, string, error) {
	h.t.Helper()
	client := *h.server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(r)
	require.NoError(h.t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(h.t, res.Body.Close())
	return answer{res.StatusCode, res.Header}, string(body), err
}

func TestAuthorization(t *testing.T) {
	h := newHouse(t)
	token := func(scope string) string {
		_, token, err := h.reg.CreatePersonalToken(t.Context(), registry.NewPersonalToken{UserID: 1, Name: "t", Scopes: []string{scope}})
		require.NoError(t, err)
		return token
	}
	const pull, push = "/info/refs?service=git-upload-pack", "/info/refs?service=git-receive-pack"
	for _, row := range []struct {
		name, path, user, password string
		code                       int
		says                       string
	}{
		{"a private project asks who one is", "/a/b/private.git" + pull, "", "", 401, "Sign in"},
		{"so does one that is not there", "/a/b/missing.git" + pull, "", "", 401, "Sign in"},
		{"a public one does not", "/a/b/public.git" + pull, "", "", 200, "refs of a/b/public"},
		{"but for a push it does", "/a/b/public.git" + push, "", "", 401, "Sign in"},
		{"the password opens", "/a/b/private.git" + push, "root", "root-password", 200, "git-receive-pack"},
		{"a wrong one does not", "/a/b/private.git" + pull, "root", "wrong", 401, "Sign in"},
		{"not even what is public", "/a/b/public.git" + pull, "root", "wrong", 401, "Sign in"},
		{"a token opens, whatever the name", "/a/b/private.git" + push, "oauth2", token(registry.ScopeAPI), 200, "git-receive-pack"},
		{"a token to read reads", "/a/b/private.git" + pull, "x", token(registry.ScopeReadRepository), 200, "git-upload-pack"},
		{"a token to read does not push", "/a/b/private.git" + push, "x", token(registry.ScopeReadRepository), 403, "write_repository"},
		{"a stranger sees nothing", "/a/b/private.git" + pull, "stranger", "stranger-password", 404, "could not be found"},
		{"where nothing is, too", "/a/b/missing.git" + pull, "stranger", "stranger-password", 404, "could not be found"},
		{"a reporter reads", "/a/b/private.git" + pull, "reporter", "reporter-password", 200, "git-upload-pack"},
		{"a reporter does not push", "/a/b/private.git" + push, "reporter", "reporter-password", 403, "developer role"},
		{"old clients are told", "/a/b/public.git/info/refs", "", "", 403, "smart HTTP"},
		{"services are Git's", "/a/b/public.git/info/refs?service=git-upload-archive", "", "", 403, "smart HTTP"},
		{"a service is posted to", "/a/b/public.git/git-upload-pack", "", "", 405, "Method"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			res, body, err := h.send(h.request(http.MethodGet, row.path, row.user, row.password, http.NoBody))
			require.NoError(t, err)
			require.Equal(t, row.code, res.StatusCode, body)
			require.Contains(t, body, row.says)
			switch row.code {
			case http.StatusOK:
				require.Contains(t, res.Header.Get("Content-Type"), "-advertisement")
			case http.StatusUnauthorized:
				require.NotEmpty(t, res.Header.Get("WWW-Authenticate"))
				fallthrough
			default:
				require.Equal(t, "text/plain; charset=utf-8", res.Header.Get("Content-Type"), "or git does not show it")
			}
		})
	}
}

func TestHandles_OnlyGit(t *testing.T) {
	h := newHouse(t)
	for _, path := range []string{"/", "/a/b/public", "/a/b/public.git", "/a/b/public/git-upload-pack", "/a/b/-/info/refs", "//evil.example/x/info/refs", "/a/../b/info/refs"} {
		r := h.request(http.MethodGet, "/", "", "", http.NoBody)
		r.URL.Path = path // as it is
		res, _, err := h.send(r)
		require.NoError(t, err)
		require.Equal(t, http.StatusTeapot, res.StatusCode, path)
	}
	res, _, err := h.send(h.request(http.MethodGet, "/a/b/public/info/refs?service=git-upload-pack", "", "", http.NoBody))
	require.NoError(t, err)
	require.Equal(t, http.StatusMovedPermanently, res.StatusCode)
	require.Equal(t, "/a/b/public.git/info/refs?service=git-upload-pack", res.Header.Get("Location"))
}

func TestExchange_StreamsPlainAndGzip(t *testing.T) {
	h := newHouse(t)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := io.WriteString(z, "want")
	require.NoError(t, err)
	require.NoError(t, z.Close())

	plain := h.request(http.MethodPost, "/a/b/private.git/git-receive-pack", "root", "root-password", strings.NewReader("pack"))
	plain.Header.Set("Git-Protocol", "version=2")
	res, body, err := h.send(plain)
	require.NoError(t, err)
	require.Equal(t, "a/b/private by root: pack, version=2", body)
	require.Equal(t, "application/x-git-receive-pack-result", res.Header.Get("Content-Type"))

	packed := h.request(http.MethodPost, "/a/b/public.git/git-upload-pack", "", "", &zipped)
	packed.Header.Set("Content-Encoding", "gzip")
	_, body, err = h.send(packed)
	require.NoError(t, err)
	require.Equal(t, "a/b/public: want, ", body)

	for encoding, code := range map[string]int{"gzip": http.StatusBadRequest, "br": http.StatusUnsupportedMediaType} {
		r := h.request(http.MethodPost, "/a/b/public.git/git-upload-pack", "", "", strings.NewReader("want"))
		r.Header.Set("Content-Encoding", encoding)
		res, _, err := h.send(r)
		require.NoError(t, err)
		require.Equal(t, code, res.StatusCode)
	}
}

func TestExchange_GitalyAway(t *testing.T) {
	h := newHouse(t)
	upload := func() (answer, string, error) {
		return h.send(h.request(http.MethodPost, "/a/b/public.git/git-upload-pack", "", "", strings.NewReader(strings.Repeat("x", 1<<20))))
	}
	h.echo.before = fmt.Errorf("dial: %w", gitaly.ErrUnavailable)
	res, body, err := upload()
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Contains(t, body, "Gitaly")

	h.echo.before = errors.New("broken")
	res, _, err = upload()
	require.NoError(t, err)
	require.Equal(t, http.StatusInternalServerError, res.StatusCode)

	h.echo.before, h.echo.within = nil, errors.New("broken")
	_, _, err = upload()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "half an answer must not look like a whole one")

	h.echo.within = nil
	res, _, err = upload()
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
}
