package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// hop are headers about one connection only (RFC 9110, 7.6.1), beside those that the header
// Connection names; and those that net/http, or the agent, sees to.
var hop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Http2-Settings": true, "Content-Length": true, "Expect": true, "Host": true,
}

// ours are headers of requests that end here: who asks is kas's to know, and where from.
var ours = map[string]bool{
	"Authorization": true, "Cookie": true, csrfHeader: true, "Private-Token": true, "Job-Token": true,
	"Origin": true, "Referer": true, "Access-Control-Request-Method": true, "Access-Control-Request-Headers": true,
	"Forwarded": true, "Via": true, "X-Real-Ip": true,
}

// ourPrefixes likewise. By X-Remote-* an API server believes who somebody is, if the agent's
// certificate is that of a front proxy.
var ourPrefixes = []string{"Gitlab-", impersonatePrefix, "X-Remote-", "X-Forwarded-"}

// theirs are headers of answers that would concern kas's own origin, and not the cluster's.
var theirs = map[string]bool{
	"Set-Cookie": true, "Set-Cookie2": true, "Clear-Site-Data": true, "Strict-Transport-Security": true, "Alt-Svc": true,
	"Public-Key-Pins": true, "Service-Worker-Allowed": true, unauthorizedHeader: true,
}

const theirPrefix = "Access-Control-"

// toAgent returns the headers of a request that cross.
func toAgent(h http.Header) []*agentrpc.HttpHeader {
	named := namedByConnection(h)
	out := make([]*agentrpc.HttpHeader, 0, len(h))
	for name, values := range h {
		if hop[name] || ours[name] || slices.Contains(named, name) ||
			slices.ContainsFunc(ourPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		if name == protocolsHeader {
			if values = openProtocols(h); len(values) == 0 {
				continue
			}
		}
		out = append(out, &agentrpc.HttpHeader{Name: name, Values: values})
	}
	return out
}

// openProtocols returns the subprotocols of a WebSocket that hold no credential.
func openProtocols(h http.Header) []string {
	open := slices.DeleteFunc(protocolsOf(h), func(p string) bool { return strings.HasPrefix(p, bearerProtocol) })
	if len(open) == 0 {
		return nil
	}
	return []string{strings.Join(open, ", ")}
}

func namedByConnection(h http.Header) []string {
	var names []string
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			names = append(names, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	return names
}

// fromAgent adds the headers of an answer. An agent may send anything.
func (s *Server) fromAgent(into http.Header, headers []*agentrpc.HttpHeader) {
	for _, one := range headers {
		name := textproto.CanonicalMIMEHeaderKey(one.GetName())
		length := name == "Content-Length"
		if (hop[name] && !length) || theirs[name] || strings.HasPrefix(name, theirPrefix) || !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, value := range one.GetValues() {
			if !httpguts.ValidHeaderFieldValue(value) {
				continue
			}
			if name == "Location" && strings.HasPrefix(value, "/") && !strings.HasPrefix(value, "//") {
				value = s.prefix + value
			}
			if length {
				into.Set(name, value)
				continue
			}
			into.Add(name, value)
		}
	}
}

// upgrades are the protocols that the Kubernetes API goes on with.
var upgrades = []string{"websocket", "SPDY/3.1"}

// upgradeOf returns the protocol that a request asks to go on with; empty: none that this
// proxy knows, so that the request goes without.
func upgradeOf(r *http.Request) string {
	if r.ProtoMajor != 1 || !httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	asked := r.Header.Get("Upgrade")
	i := slices.IndexFunc(upgrades, func(known string) bool { return strings.EqualFold(known, asked) })
	if i < 0 {
		return ""
	}
	return upgrades[i]
}
