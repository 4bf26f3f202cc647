package page

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/kas-agentk/kas/ror/registry"
)

const (
	sessionCookie = "_ror_session"
	// kasCookie is what GitLab names the cookie that kas's proxy reads.
	kasCookie = "_gitlab_kas"
)

type signInBody struct {
	ReturnTo string
	Username string
}

func (s *Server) signInForm(w http.ResponseWriter, r *http.Request) {
	s.render(w, http.StatusOK, "sign_in", page{Title: "Sign in", Body: signInBody{ReturnTo: localPath(r.FormValue("return_to"))}})
}

func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	body := signInBody{ReturnTo: localPath(r.PostFormValue("return_to")), Username: r.PostFormValue("username")}
	user, err := s.registry.UserByPassword(r.Context(), body.Username, r.PostFormValue("password"))
	if errors.Is(err, registry.ErrUnauthorized) {
		s.render(w, http.StatusUnauthorized, "sign_in", page{Title: "Sign in", Error: "User name or password is wrong.", Body: body})
		return
	}
	if err != nil {
		s.fail(w, visit{Request: r}, err)
		return
	}
	session, err := s.registry.CreateSession(r.Context(), user.ID)
	if err != nil {
		s.fail(w, visit{Request: r}, err)
		return
	}
	for name, value := range map[string]string{sessionCookie: session.Token, kasCookie: session.KasKey} {
		http.SetCookie(w, s.cookie(name, value, int(registry.SessionLifetime.Seconds())))
	}
	http.Redirect(w, r, body.ReturnTo, http.StatusSeeOther)
}

func (s *Server) cookie(name, value string, maxAge int) *http.Cookie {
	path, domain := "/", ""
	if name == kasCookie {
		path, domain = s.kasScope()
	}
	//nolint:gosec // Secure is set unless people reach this server over plain HTTP
	return &http.Cookie{
		Name: name, Value: value, Path: path, Domain: domain, MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: s.secure,
	}
}

// kasScope is the path and domain by which a browser shows its cookie to the proxy of kas, on
// another port of this host or on a subdomain.
func (s *Server) kasScope() (path, domain string) {
	if s.proxy == nil {
		return "/", ""
	}
	if own, err := url.Parse(s.cfg.ExternalURL); err == nil && strings.HasSuffix(s.proxy.Hostname(), "."+own.Hostname()) {
		domain = own.Hostname()
	}
	return cmp.Or(strings.TrimSuffix(s.proxy.Path, "/"), "/"), domain
}

func (s *Server) signOut(w http.ResponseWriter, v visit) error {
	if err := s.registry.DeleteSession(v.Context(), v.session.Token); err != nil {
		return err
	}
	for _, name := range []string{sessionCookie, kasCookie} {
		http.SetCookie(w, s.cookie(name, "", -1))
	}
	http.Redirect(w, v.Request, "/-/sign_in", http.StatusSeeOther)
	return nil
}

// localPath returns a path of this server, never another server's address.
func localPath(s string) string {
	if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") {
		return "/"
	}
	return s
}
