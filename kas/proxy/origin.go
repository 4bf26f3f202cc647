package proxy

import (
	"net/http"
	"slices"
)

// preflightAge is how long browsers remember that they may ask, in seconds.
const preflightAge = "86400"

const preflightMethods = "GET, HEAD, POST, PUT, PATCH, DELETE"

// foreign says whether a request was made by a page that may not make any.
func (s *Server) foreign(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	return len(origins) > 1 || (len(origins) == 1 && !slices.Contains(s.cfg.AllowedOrigins, origins[0]))
}

// share lets the page that asks, if it may, see what is answered (CORS).
func (s *Server) share(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Add("Vary", "Origin")
	if r.Header.Get("Origin") == "" || s.foreign(r) {
		return
	}
	h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", unauthorizedHeader+", Retry-After, Warning")
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight answers a browser that wants to know whether a page may ask something.
func (s *Server) preflight(w http.ResponseWriter, r *http.Request) (int, error) {
	if s.foreign(r) {
		return 0, refuse(http.StatusForbidden, "pages of %.200q may not use this proxy: agent.kubernetes_api.allowed_origins of kas says which may", r.Header.Get("Origin"))
	}
	h := w.Header()
	h["Access-Control-Allow-Headers"] = r.Header.Values("Access-Control-Request-Headers")
	h.Set("Access-Control-Allow-Methods", preflightMethods)
	h.Set("Access-Control-Max-Age", preflightAge)
	w.WriteHeader(http.StatusNoContent)
	return http.StatusNoContent, nil
}
