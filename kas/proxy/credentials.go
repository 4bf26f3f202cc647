package proxy

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// kind of access, as metrics and impersonation name it.
type kind string

const (
	byNothing kind = "none"
	byToken   kind = kind(gitlabapi.AccessPersonalToken)
	bySession kind = kind(gitlabapi.AccessSessionCookie)
	byJob     kind = "ci_job"
)

// What a credential is in. The names are GitLab's, but for the subprotocol, which is
// Kubernetes' own: scripts cannot set headers of a WebSocket.
const (
	sessionCookie   = "_gitlab_kas"
	agentHeader     = "Gitlab-Agent-Id"
	csrfHeader      = "X-Csrf-Token"
	agentParameter  = "gitlab-agent-id"
	csrfParameter   = "gitlab-csrf-token"
	bearer          = "bearer "
	protocolsHeader = "Sec-Websocket-Protocol"
	bearerProtocol  = "base64url.bearer.authorization.k8s.io." //nolint:gosec // it is where one is, and no credential
)

// credential is what a client shows, and of which agent it speaks.
type credential struct {
	kind    kind
	agentID int64
	secret  string
	csrf    string // of a session
}

const howTo = `use "Authorization: Bearer pat:<agent id>:<personal access token>" or "Authorization: Bearer ci:<agent id>:<CI job token>"`

// credentialOf reads the one credential of a request.
func credentialOf(r *http.Request) (credential, error) {
	tokens, err := bearersOf(r)
	if err != nil {
		return credential{}, err
	}
	cookies := r.CookiesNamed(sessionCookie)
	switch len(tokens) + len(cookies) {
	case 0:
		return credential{}, refuse(http.StatusUnauthorized, "the request says not who asks: %s", howTo)
	case 1:
	default:
		return credential{}, refuse(http.StatusBadRequest, "the request has several credentials: send one, in one header Authorization or in the cookie %s", sessionCookie)
	}
	if len(tokens) == 1 {
		return parseBearer(tokens[0])
	}
	return sessionOf(r, cookies[0])
}

// bearersOf returns the bearer tokens of a request.
func bearersOf(r *http.Request) ([]string, error) {
	var tokens []string
	for _, value := range r.Header.Values("Authorization") {
		if len(value) < len(bearer) || !strings.EqualFold(value[:len(bearer)], bearer) {
			return nil, refuse(http.StatusUnauthorized, "the header Authorization holds no bearer token: %s", howTo)
		}
		tokens = append(tokens, value[len(bearer):])
	}
	for _, protocol := range protocolsOf(r.Header) {
		encoded, found := strings.CutPrefix(protocol, bearerProtocol)
		if !found {
			continue
		}
		token, err := base64.RawURLEncoding.DecodeString(encoded)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "the WebSocket's subprotocol %s… ends in what is not base64url without padding", bearerProtocol)
		}
		tokens = append(tokens, string(token))
	}
	return tokens, nil
}

// parseBearer reads "pat:<agent id>:<token>" and "ci:<agent id>:<token>".
func parseBearer(token string) (credential, error) {
	parts := strings.SplitN(token, ":", 3)
	kinds := map[string]kind{"pat": byToken, "ci": byJob}
	if len(parts) != 3 || kinds[parts[0]] == "" {
		return credential{}, refuse(http.StatusUnauthorized, "the bearer token is not one for this proxy: %s", howTo)
	}
	agentID, err := parseAgentID(parts[1])
	if err != nil {
		return credential{}, err
	}
	if parts[2] == "" {
		return credential{}, refuse(http.StatusUnauthorized, "the bearer token has nothing after its last colon: %s", howTo)
	}
	return credential{kind: kinds[parts[0]], agentID: agentID, secret: parts[2]}, nil
}

func parseAgentID(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id <= 0 {
		return 0, refuse(http.StatusUnauthorized, "%.40q is not the ID of an agent, which is a number", text)
	}
	return id, nil
}

// sessionOf reads what goes with the cookie of a session.
func sessionOf(r *http.Request, cookie *http.Cookie) (credential, error) {
	secret, err := url.QueryUnescape(cookie.Value) // RoR writes cookies so
	if err != nil || secret == "" {
		return credential{}, refuse(http.StatusUnauthorized, "the cookie %s holds nothing of use: log in again", sessionCookie)
	}
	agent, err := single(r, agentHeader, agentParameter)
	if err != nil {
		return credential{}, err
	}
	csrf, err := single(r, csrfHeader, csrfParameter)
	if err != nil {
		return credential{}, err
	}
	agentID, err := parseAgentID(agent)
	if err != nil {
		return credential{}, err
	}
	return credential{kind: bySession, agentID: agentID, secret: secret, csrf: csrf}, nil
}

// single returns the only value of a header or, for WebSockets of browsers, of a parameter.
func single(r *http.Request, header, parameter string) (string, error) {
	values := slices.Concat(r.Header.Values(header), r.URL.Query()[parameter])
	if len(values) != 1 || values[0] == "" {
		return "", refuse(http.StatusUnauthorized, "with the cookie %s goes one header %s (or one parameter %s): there are %d",
			sessionCookie, header, parameter, len(values))
	}
	return values[0], nil
}

// protocolsOf lists the subprotocols that a WebSocket's client offers.
func protocolsOf(h http.Header) []string {
	var all []string
	for _, line := range h.Values(protocolsHeader) {
		for protocol := range strings.SplitSeq(line, ",") {
			if protocol = strings.TrimSpace(protocol); protocol != "" {
				all = append(all, protocol)
			}
		}
	}
	return all
}

// withoutCredentials takes the parameters that are kas's out of a URL's query; what is left
// is as it was.
func withoutCredentials(rawQuery string) string {
	if !strings.Contains(rawQuery, "gitlab") && !strings.Contains(rawQuery, "%") {
		return rawQuery
	}
	kept := slices.DeleteFunc(strings.Split(rawQuery, "&"), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		return err == nil && (name == agentParameter || name == csrfParameter)
	})
	return strings.Join(kept, "&")
}
