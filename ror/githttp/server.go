package githttp

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/ror/gitaly"
	"github.com/kas-agentk/kas/ror/registry"
)

// Repositories speaks Git's protocol.
type Repositories interface {
	InfoRefs(ctx context.Context, p registry.Project, s gitaly.Service, protocol string, w io.Writer) error
	UploadPack(ctx context.Context, p registry.Project, x gitaly.Exchange) error
	ReceivePack(ctx context.Context, p registry.Project, u registry.User, x gitaly.Exchange) error
}

// Config is what the server needs to know.
type Config struct {
	// Clock tells the time. Default: the real one.
	Clock clock.PassiveClock
	Log   *zap.Logger
}

// Server serves Git over HTTP.
type Server struct {
	cfg          Config
	registry     *registry.Registry
	repositories Repositories
}

// NewServer returns a server.
func NewServer(cfg Config, r *registry.Registry, repositories Repositories) *Server {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Server{cfg: cfg, registry: r, repositories: repositories}
}

const infoRefs = "info/refs"

// request is what a URL asks for.
type request struct {
	project string // full path
	// suffix tells whether the project was written with ".git".
	suffix  bool
	service gitaly.Service
	refs    bool // the advertisement of refs that comes before the service
}

// parse tells whether a request is Git's.
func parse(r *http.Request) (request, bool) {
	if path.Clean(r.URL.Path) != r.URL.Path {
		return request{}, false
	}
	for _, endpoint := range []string{infoRefs, string(gitaly.UploadPack), string(gitaly.ReceivePack)} {
		project, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/"+endpoint)
		if !ok || strings.Contains("/"+project+"/", "/-/") {
			continue
		}
		q := request{service: gitaly.Service(endpoint)}
		q.project, q.suffix = strings.CutSuffix(project, ".git")
		if endpoint == infoRefs {
			q.refs, q.service = true, gitaly.Service(r.URL.Query().Get("service"))
		}
		return q, q.suffix || q.refs
	}
	return request{}, false
}

// Handles tells whether a request is for this server.
func (s *Server) Handles(r *http.Request) bool {
	_, ok := parse(r)
	return ok
}

// Pattern is the route of a request that Handles accepts.
func Pattern(r *http.Request) string {
	q, _ := parse(r)
	if q.refs {
		return "/{project}.git/" + infoRefs
	}
	return "/{project}.git/" + string(q.service)
}

// refusal is an answer that is not Git's.
type refusal struct {
	status  int
	message string
}

func (e *refusal) Error() string { return fmt.Sprintf("%d: %s", e.status, e.message) }

var (
	errSignIn   = &refusal{http.StatusUnauthorized, "Sign in with your user name, and your password or a personal access token."}
	errNotFound = &refusal{http.StatusNotFound, "The project you were looking for could not be found or you don't have permission to view it."}
	errNoPush   = &refusal{http.StatusForbidden, "You are not allowed to push code to this project: ask its maintainer for the developer role."}
	errNoPull   = &refusal{http.StatusForbidden, "You are not allowed to download code from this project: ask its maintainer for the reporter role."}
	errNoScope  = &refusal{http.StatusForbidden, "This personal access token has no scope for this: it needs write_repository to push, or read_repository to fetch."}
	errOldGit   = &refusal{http.StatusForbidden, "This server speaks Git's smart HTTP protocol only."}
	errNoGitaly = &refusal{http.StatusServiceUnavailable, "The Git storage (Gitaly) does not answer. Try again soon."}
	errInternal = &refusal{http.StatusInternalServerError, "The Git storage (Gitaly) failed. The server's log says why."}
	errMethod   = &refusal{http.StatusMethodNotAllowed, "Method not allowed."}
	errEncoding = &refusal{http.StatusUnsupportedMediaType, "Unknown encoding of the request: want gzip or none."}
)

// ServeHTTP implements http.Handler for requests that Handles accepts.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, ok := parse(r)
	if !ok {
		refuse(w, errNotFound)
		return
	}
	if !q.suffix {
		// As GitLab does: git follows, and remembers.
		to := url.URL{Path: "/" + q.project + ".git/" + infoRefs, RawQuery: url.Values{"service": {string(q.service)}}.Encode()}
		http.Redirect(w, r, to.String(), http.StatusMovedPermanently)
		return
	}
	project, user, err := s.authorize(r, q)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	t := newTransfer(w, r, s.cfg.Clock)
	if err := s.exchange(t, r, q, project, user); err != nil {
		if t.started() {
			t.abort() // the client must not take it for the whole answer
			s.log(r, err)
			return
		}
		s.fail(w, r, err)
	}
}

func (s *Server) exchange(t *transfer, r *http.Request, q request, p registry.Project, u registry.User) error {
	protocol := r.Header.Get("Git-Protocol")
	if q.refs {
		t.contentType = "application/x-" + string(q.service) + "-advertisement"
		return s.repositories.InfoRefs(r.Context(), p, q.service, protocol, t)
	}
	t.contentType = "application/x-" + string(q.service) + "-result"
	x := gitaly.Exchange{Protocol: protocol, In: t, Out: t, StopReading: t.stopReading}
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip", "x-gzip":
		unzipped, err := gzip.NewReader(t)
		if err != nil {
			return &refusal{http.StatusBadRequest, "The request is not the gzip that it claims to be."}
		}
		x.In = unzipped
	default:
		return errEncoding
	}
	if q.service == gitaly.ReceivePack {
		return s.repositories.ReceivePack(r.Context(), p, u, x)
	}
	return s.repositories.UploadPack(r.Context(), p, x)
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var answer *refusal
	switch {
	case errors.As(err, &answer):
	case errors.Is(err, gitaly.ErrUnavailable):
		answer = errNoGitaly
		s.log(r, err)
	default:
		answer = errInternal
		s.log(r, err)
	}
	refuse(w, answer)
}

func (s *Server) log(r *http.Request, err error) {
	level := zap.ErrorLevel
	switch {
	case r.Context().Err() != nil: // the client hung up
		level = zap.InfoLevel
	case errors.Is(err, gitaly.ErrUnavailable): // not this server's fault
		level = zap.WarnLevel
	}
	s.cfg.Log.Log(level, "git request failed", zap.String("path", r.URL.Path), zap.Error(err))
}

func refuse(w http.ResponseWriter, e *refusal) {
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(e.status)
	fmt.Fprintln(w, e.message)
}
