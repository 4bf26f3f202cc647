package kubeapi

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// connectionHeaders concern one connection only, besides those that Connection names.
var connectionHeaders = []string{
	"Connection", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// notForwarded are further headers that do not go to the API server: net/http makes those
// about length and host itself, and the others are credentials, which are not for the
// cluster.
var notForwarded = []string{
	"Authorization", "Content-Length", "Cookie", "Deploy-Token", "Expect", "Host", "Job-Token", "Private-Token", "X-Csrf-Token",
}

// identityPrefixes begin headers that say who asks: agentk's to say, or a front proxy's.
var identityPrefixes = []string{"Impersonate-", "X-Remote-"}

// tokenProtocol begins what a WebSocket client names beside its protocols to hand over a
// bearer token.
const tokenProtocol = "base64url.bearer.authorization.k8s.io." //nolint:gosec // no credentials

const protocolHeader = "Sec-Websocket-Protocol"

// requestHeader returns what of a request's headers goes to the API server. Its errors are
// statuses.
func requestHeader(given []*agentrpc.HttpHeader) (http.Header, error) {
	header := make(http.Header, len(given))
	for _, h := range given {
		if !httpguts.ValidHeaderFieldName(h.GetName()) {
			return nil, invalid("%.40q is no name of a header", h.GetName())
		}
		name := http.CanonicalHeaderKey(h.GetName())
		for _, v := range h.GetValues() {
			if !httpguts.ValidHeaderFieldValue(v) {
				return nil, invalid("header %.40q has a value that cannot be sent", name)
			}
			header[name] = append(header[name], v)
		}
	}
	dropConnectionHeaders(header)
	for name := range header {
		if !forwarded(name) {
			delete(header, name)
		}
	}
	dropTokens(header)
	return header, nil
}

// forwarded says whether a header goes to the API server.
func forwarded(name string) bool {
	// There are servers that take one for the other.
	name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	return !slices.Contains(notForwarded, name) && !slices.Contains(connectionHeaders, name) &&
		!slices.ContainsFunc(identityPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// dropTokens takes bearer tokens out of the protocols that a WebSocket client names.
func dropTokens(header http.Header) {
	var kept []string
	for _, v := range header[protocolHeader] {
		for protocol := range strings.SplitSeq(v, ",") {
			protocol = strings.TrimSpace(protocol)
			if !strings.HasPrefix(strings.ToLower(protocol), tokenProtocol) {
				kept = append(kept, protocol)
			}
		}
	}
	header.Del(protocolHeader)
	if len(kept) > 0 {
		header.Set(protocolHeader, strings.Join(kept, ", "))
	}
}

// dropConnectionHeaders takes out what concerns one connection only.
func dropConnectionHeaders(header http.Header) {
	for _, v := range header["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range connectionHeaders {
		header.Del(name)
	}
}

// responseHeader returns what of an answer's headers goes to the client. upgrade is what it
// goes on with; empty: nothing.
func responseHeader(header http.Header, upgrade string) []*agentrpc.HttpHeader {
	dropConnectionHeaders(header)
	header.Del("Set-Cookie")
	if upgrade != "" {
		header.Set("Connection", "Upgrade")
		header.Set("Upgrade", upgrade)
	}
	out := make([]*agentrpc.HttpHeader, 0, len(header))
	for name, values := range header {
		valid := make([]string, len(values))
		for i, v := range values {
			valid[i] = strings.ToValidUTF8(v, "?") // protobuf knows no other
		}
		out = append(out, &agentrpc.HttpHeader{Name: name, Values: valid})
	}
	return out
}
