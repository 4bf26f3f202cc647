package page

import (
	"bytes"
	"context"
	"crypto/subtle"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/hosting"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/registry"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// maxForm is the largest form, in bytes.
const maxForm = 64 << 10

// contentPolicy allows nothing but what the pages are made of. Their scripts may speak to
// this server and, where it is known, to kas's proxy.
func contentPolicy(proxy *url.URL) string {
	connect := "'self'"
	if proxy != nil {
		connect += " " + proxy.Scheme + "://" + proxy.Host
	}
	return "default-src 'none'; style-src 'self'; script-src 'self'; connect-src " + connect + "; img-src data:; " +
		"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
}

// Projects makes projects.
type Projects interface {
	Create(context.Context, registry.User, registry.NewProject) (registry.Project, error)
}

// Overview tells what is known of agents.
type Overview interface {
	Describe(context.Context, []registry.Agent) (overview.Agents, error)
}

// Control carries commands to clusters.
type Control interface {
	Do(context.Context, control.Command) error
	Diff(context.Context, control.Target, control.Ref) (*railsrpc.DiffResponse, error)
}

// Config is what the server needs to know.
type Config struct {
	// ExternalURL of RoR, without a slash at the end.
	ExternalURL string
	// KasAgentAddress is what agentk is started with, for example grpc://HOST:PORT.
	KasAgentAddress string
	// KasProxyURL is where kas's Kubernetes API proxy begins; empty: nobody is told of it.
	KasProxyURL string
	// IsUnavailable tells whether an error of Projects means that Gitaly is away.
	IsUnavailable func(error) bool
	Log           *zap.Logger
	// Clock tells how old news are. Default: the real one.
	Clock clock.PassiveClock
}

// Server serves the pages.
type Server struct {
	cfg       Config
	registry  *registry.Registry
	projects  Projects
	overview  Overview
	control   Control
	clusters  Clusters
	templates map[string]*template.Template
	handler   http.Handler
	secure    bool
	// proxy is nil where it is not known.
	proxy  *url.URL
	policy string
}

// NewServer returns a server.
func NewServer(cfg Config, r *registry.Registry, projects Projects, o Overview, c Control, k Clusters) (*Server, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	templates, err := parseTemplates()
	if err != nil {
		return nil, err
	}
	assets, err := fs.Sub(assetFiles, "assets")
	if err != nil {
		return nil, fmt.Errorf("embedded assets: %w", err)
	}
	s := &Server{
		cfg: cfg, registry: r, projects: projects, overview: o, control: c, clusters: k, templates: templates,
		secure: strings.HasPrefix(cfg.ExternalURL, "https:"),
	}
	if cfg.KasProxyURL != "" {
		if s.proxy, err = url.Parse(cfg.KasProxyURL); err != nil {
			return nil, fmt.Errorf("address of kas's proxy: %w", err)
		}
	}
	s.policy = contentPolicy(s.proxy)
	mux := http.NewServeMux()
	mux.Handle("GET /-/assets/", http.StripPrefix("/-/assets/", cacheable(http.FileServerFS(assets))))
	mux.HandleFunc("GET /-/sign_in", s.signInForm)
	mux.HandleFunc("POST /-/sign_in", s.signIn)
	mux.Handle("POST /-/sign_out", s.signedIn(s.signOut))
	mux.Handle("GET /-/projects", s.signedIn(s.listProjects))
	mux.Handle("POST /-/projects", s.signedIn(s.createProject))
	mux.Handle("GET /{$}", s.signedIn(s.listAgents))
	mux.Handle("/", s.signedIn(s.inProject))
	s.handler = http.NewCrossOriginProtection().Handler(mux)
	return s, nil
}

func parseTemplates() (map[string]*template.Template, error) {
	functions := template.FuncMap{
		"short":      shortCommit,
		"projectURL": projectPath,
		"dict":       dict,
	}
	templates := make(map[string]*template.Template)
	for _, name := range []string{"sign_in", "agents", "projects", "project", "agent", "token", "diff", "cluster", "object", "error"} {
		t, err := template.New(name+".html").Funcs(functions).ParseFS(templateFiles,
			"templates/layout.html", "templates/status.html", "templates/agents.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("page template %s: %w", name, err)
		}
		templates[name] = t
	}
	return templates, nil
}

// dict makes the arguments of a template from names and values.
func dict(pairs ...any) (map[string]any, error) {
	args := make(map[string]any, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no name", pairs[i])
		}
		args[name] = pairs[i+1]
	}
	return args, nil
}

func cacheable(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=300")
		h.ServeHTTP(w, r)
	})
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", s.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	s.handler.ServeHTTP(w, r)
}

// visit is one request by a user who signed in.
type visit struct {
	*http.Request
	user    registry.User
	session registry.Session
}

// page is what every template gets.
type page struct {
	Title string
	// User is nil before signing in.
	User  *registry.User
	CSRF  string
	Error string
	// Note says what has been done.
	Note string
	// Live pages renew themselves.
	Live bool
	Body any
}

func (v visit) page(title string, body any) page {
	return page{Title: title, User: &v.user, CSRF: v.session.CSRF, Body: body}
}

// live is a page that renews itself.
func (v visit) live(title string, body any) page {
	p := v.page(title, body)
	p.Live = true
	return p
}

// notice is an error whose text is meant for the user.
type notice struct {
	status int
	text   string
	// back is the page from which it came. Empty: not known.
	back string
}

func (e *notice) Error() string { return e.text }

var (
	errNotFound  = &notice{status: http.StatusNotFound, text: "There is no such page, or you may not see it."}
	errForbidden = &notice{status: http.StatusForbidden, text: "You may not do this: ask the project's maintainer."}
	errCSRF      = &notice{status: http.StatusForbidden, text: "This form is out of date. Go back, reload the page and try again."}
)

// signedIn finds out who visits, and sends strangers to the sign-in page.
func (s *Server) signedIn(h func(http.ResponseWriter, visit) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visit{Request: r}
		var err error
		v.user, v.session, err = s.identify(r)
		if errors.Is(err, registry.ErrUnauthorized) {
			http.Redirect(w, r, "/-/sign_in?"+url.Values{"return_to": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
			return
		}
		if err == nil && r.Method != http.MethodGet && r.Method != http.MethodHead &&
			subtle.ConstantTimeCompare([]byte(r.PostFormValue("csrf")), []byte(v.session.CSRF)) != 1 {
			err = errCSRF
		}
		if err == nil {
			err = h(w, v)
		}
		if err != nil {
			s.fail(w, v, err)
		}
	})
}

func (s *Server) identify(r *http.Request) (registry.User, registry.Session, error) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return registry.User{}, registry.Session{}, registry.ErrUnauthorized
	}
	return s.registry.UserBySession(r.Context(), cookie.Value)
}

// errorBody is the error page.
type errorBody struct {
	Text, Back string
}

// fail shows what went wrong.
func (s *Server) fail(w http.ResponseWriter, v visit, err error) {
	var n *notice
	var invalid *registry.InvalidError
	switch {
	case errors.As(err, &n):
	case errors.As(err, &invalid):
		n = &notice{status: http.StatusBadRequest, text: "The " + invalid.Field + " " + invalid.Reason + "."}
	case errors.Is(err, registry.ErrConflict):
		n = &notice{status: http.StatusConflict, text: "This name is already taken."}
	case errors.Is(err, registry.ErrNotFound):
		n = errNotFound
	case errors.Is(err, hosting.ErrForbidden):
		n = &notice{status: http.StatusForbidden, text: "You may create projects in your own namespace only."}
	case s.cfg.IsUnavailable(err):
		n = &notice{status: http.StatusServiceUnavailable, text: "The Git storage (Gitaly) does not answer. Try again soon."}
	default:
		n = &notice{status: http.StatusInternalServerError, text: "Something went wrong. The server's log says what."}
		if v.Context().Err() == nil {
			s.cfg.Log.Error("page failed", zap.String("path", v.URL.Path), zap.Error(err))
		}
	}
	p := page{Title: http.StatusText(n.status), Body: errorBody{n.text, n.back}}
	if v.user.ID != 0 {
		p.User, p.CSRF = &v.user, v.session.CSRF
	}
	s.render(w, n.status, "error", p)
}

// render sends a page, whole or not at all.
func (s *Server) render(w http.ResponseWriter, status int, name string, p page) {
	var b bytes.Buffer
	if err := s.templates[name].Execute(&b, p); err != nil {
		s.cfg.Log.Error("page template failed", zap.String("template", name), zap.Error(err))
		http.Error(w, "Something went wrong. The server's log says what.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a browser that left needs no page
}
