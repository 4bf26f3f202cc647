package kubeapi

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
)

// named are the Services of the tests' configuration.
var named = newServices([]*agentcfg.ProxiedService{
	{Namespace: "monitoring", Name: "prometheus", Port: "http"},
	{Namespace: "web", Name: "any"},
})

// ask is what a Server decides about a URL.
func ask(s *services, raw string) error {
	u, err := parseURL(raw)
	if err != nil {
		return err
	}
	return s.check(u.Path)
}

// URLs of the tests, with which fuzzing begins, too.
var (
	ordinary = []string{
		"/", "/api", "/api/", "/api/v1", "/apis/apps/v1/deployments?limit=500", "/openapi/v3/apis/apps/v1?hash=A%2FB", "/version", "/healthz/etcd",
		"/api/v1/namespaces/web/services/other", "/api/v1/namespaces/web/services/other/status",
		"/api/v1/namespaces/web/pods/a/portforward?ports=80", "/api/v1/namespaces/web/pods/a/exec?command=ls&command=..", "/api/v1/namespaces/web/pods/a/log?follow=true",
		"/api/v1/namespaces/proxy", "/api/v1/namespaces/proxy/configmaps", "/api/v1/namespaces/proxy/services/other", "/api/v1/namespaces/web/configmaps/proxy",
		"/api/v1/namespaces/web/services/proxy", "/api/v1/namespaces/web/services/proxy/status", "/api/v1/nodes/proxy", "/api/v1/watch/namespaces/web/services/proxy",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node-proxier", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode-proxier",
		"/apis/example.com/v1/namespaces/web/services/a/proxy/b", "/api/v1/namespaces/api/pods/proxy/log",
		"/api/v1/pods?fieldSelector=metadata.name%3D../services/a/proxy", "/apis/batch/v1/namespaces/api/jobs/proxy/status",
	}
	namedURLs = []string{
		"/api/v1/namespaces/monitoring/services/prometheus:http/proxy/api/v1/query?query=up",
		"/api/v1/namespaces/monitoring/services/https:prometheus:http/proxy",
		"/api/v1/namespaces/monitoring/services/prometheus%3Ahttp/proxy/",
		"/api/v1/namespaces/monitoring/services/prometheus:http/%70roxy/a//b/%25/x",
		"/api/v1/namespaces/web/services/any/proxy/proxy/api/v1/nodes/a/proxy",
		"/api/v1/namespaces/web/services/any:8080/proxy", "/api/v1/namespaces/web/services/http:any:/proxy",
		"/api/v1/proxy/namespaces/web/services/any/x",
	}
	refusedURLs = []string{
		"/api/v1/namespaces/web/services/other/proxy", "/api/v1/namespaces/web/services/other/proxy/", "/api/v1/namespaces/web/services/other/proxy?path=x",
		"/api/v1/namespaces/monitoring/services/prometheus/proxy", "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy", "/api/v1/namespaces/monitoring/services/prometheus:HTTP/proxy",
		"/api/v1/namespaces/monitoring/services/any/proxy", "/api/v1/namespaces/web/services/Any/proxy", "/api/v1/namespaces/web/services/any%20/proxy",
		"/api/v1/namespaces/web/services/other%2Fproxy%2Fx", "/api/v1/namespaces/web/services/%6fther/pro%78y", "/api/v1/namespaces/web/%73ervices/other/proxy",
		"/api/v1/namespaces/web/services/ftp:any:80/proxy", "/api/v1/namespaces/web/services/a:b:any:80/proxy", "/api/v1/namespaces/web/services/:80/proxy",
		"/api/v1/services/any/proxy", "/api/v1/watch/namespaces/web/services/other/proxy", "/api/v2/namespaces/web/services/other/proxy",
		"/API/V1/NAMESPACES/web/SERVICES/other/PROXY", "/api/v1/namespaces/web/Services/other/Proxy", "/%61pi/v1/namespaces/web/services/other/proxy",
		"/api/v1/proxy/namespaces/web/services/other", "/api/v1/proxy/services/any/x", "/api/v1/proxy/watch/namespaces/web/services/other", "/api/v1/proxy/nodes/a/stats",
		"/api/v1/namespaces/web/pods/a/proxy", "/api/v1/namespaces/web/pods/any:80/proxy/x", "/api/v1/nodes/a/proxy/run/x", "/api/v1/nodes/a:10250/proxy", "/api/v1/nodes/https:any:10250/proxy",
		"/k8s/clusters/local/api/v1/namespaces/web/services/other/proxy", "/api/v1/namespaces/api/services/other/proxy", "/clusters/a/api/v1/nodes/a/proxy/",
	}
	doubtful = []string{
		"", "x", "*", "//evil/x", "http://evil/x", "/x#y", "/a b", "/a\x00", "/a\tb", "/a?b\r\nc", "/%zz", "/a%", "evil:443",
		"/api/v1/../v1/namespaces/web/services/other/proxy", "/api/v1/%2e%2e/x", "/api/v1/%2E./x", "/..", "/api/..", "/./api", "/api/v1/a%2f..%2fb",
		"/api/v1/namespaces/web/services/any/proxy/../../other/proxy", "/api/v1/namespaces/web/services/any/proxy/%2e%2e/x", "/api/v1/namespaces/web/services/any/proxy/%252e%252e%252fx",
		"/api//v1/nodes/a/proxy", "/api/v1//namespaces/web/services/other/proxy", "/api/v1/namespaces/web/services/other//proxy", "/api/v1/namespaces/web/services//proxy", "/api%2F/v1", "/api/v1//",
		"/api/v1/namespaces/web/services/other%252Fproxy", "/api/v1/namespaces/web/services/other%252fproxy/x", "/api/v1/namespaces/web/services/any%00/proxy", "/%2fapi/v1/nodes/a/proxy",
	}
)

func TestCheck_WhatIsNoProxyIsLeftToRBAC(t *testing.T) {
	for _, raw := range ordinary {
		for _, s := range []*services{nil, named} {
			require.NoError(t, ask(s, raw), raw)
		}
	}
}

func TestCheck_NamedServicesAreReached(t *testing.T) {
	for _, raw := range namedURLs {
		require.NoError(t, ask(named, raw), raw)
		require.Equal(t, codes.PermissionDenied, status.Code(ask(nil, raw)), "before there is a configuration: %s", raw)
		require.Equal(t, codes.PermissionDenied, status.Code(ask(newServices(nil), raw)), "by a configuration that names none: %s", raw)
	}
}

func TestCheck_NobodyElseIsReachedByWayOfTheAPIServer(t *testing.T) {
	for _, raw := range refusedURLs {
		err := ask(named, raw)
		require.Equal(t, codes.PermissionDenied, status.Code(err), "%s: %v", raw, err)
	}
}

func TestCheck_WhatCouldBeReadInTwoWaysIsRefused(t *testing.T) {
	for _, raw := range doubtful {
		err := ask(named, raw)
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%q: %v", raw, err)
	}
}

func TestCheck_RefusalSaysWhatWouldHelp(t *testing.T) {
	require.EqualError(t, ask(named, "/api/v1/namespaces/web/services/https:grafana:3000/proxy/"), "rpc error: code = PermissionDenied desc = "+
		`Service "grafana" in namespace "web", port "3000", cannot be reached through this agent: its configuration would have to name it, by an entry {namespace: web, name: grafana, port: "3000"} of kubernetes_api.services`)
	require.EqualError(t, ask(named, "/api/v1/namespaces/web/services/grafana/proxy/"), "rpc error: code = PermissionDenied desc = "+
		`Service "grafana" in namespace "web" cannot be reached through this agent: its configuration would have to name it, by an entry {namespace: web, name: grafana} of kubernetes_api.services`)
	require.ErrorContains(t, ask(named, "/api/v1/nodes/n1/proxy/"), `nodes "n1" cannot be reached through the API server's proxy`)
	require.ErrorContains(t, ask(nil, "/api/v1/namespaces/web/services/grafana/proxy/"), "the agent has got no configuration")
}

func TestBelow_KeepsThePathOfTheKubeconfig(t *testing.T) {
	for _, row := range []struct{ host, url, want string }{
		{"https://k8s.example:6443", "/api/v1?a=b%2F", "https://k8s.example:6443/api/v1?a=b%2F"},
		{"https://rancher.example/k8s/clusters/c-1", "/api/v1/x%2Fy", "https://rancher.example/k8s/clusters/c-1/api/v1/x%2Fy"},
		{"https://rancher.example/k8s%2Fx/", "/", "https://rancher.example/k8s%2Fx/"},
		{"https://user:password@k8s.example/a?b#c", "/api?", "https://k8s.example/a/api?"},
	} {
		base, err := url.Parse(row.host)
		require.NoError(t, err)
		u, err := parseURL(row.url)
		require.NoError(t, err)
		require.Equal(t, row.want, below(base, u).String())
	}
}

// reads is what an API server connects to for a path, as k8s.io/apiserver's RequestInfo has
// it: resource, namespace and name; or nothing.
func reads(p string) (resource, namespace, name string) {
	p = strings.Trim(p, "/")
	parts := strings.Split(p, "/")
	if len(parts) < 3 || parts[0] != "api" {
		return "", "", ""
	}
	parts = parts[2:]
	verb := ""
	if parts[0] == "proxy" || parts[0] == "watch" {
		if len(parts) < 2 {
			return "", "", ""
		}
		verb, parts = parts[0], parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	if verb == "proxy" && len(parts) >= 2 || len(parts) >= 3 && parts[2] == "proxy" {
		return parts[0], namespace, parts[1]
	}
	return "", "", ""
}

// FuzzServicePath asks for any URL: an API server never connects to anything that is not
// named, however those between it and the agent read the path.
func FuzzServicePath(f *testing.F) {
	for _, raw := range slices.Concat(ordinary, namedURLs, refusedURLs, doubtful) {
		f.Add(raw)
	}
	base := &url.URL{Scheme: "https", Host: "k8s.example", Path: "/base"}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := parseURL(raw)
		if err != nil || named.check(u.Path) != nil {
			return
		}
		sent := below(base, u)
		got, err := url.ParseRequestURI(sent.RequestURI())
		if err != nil || got.Path != "/base"+u.Path || sent.Host != base.Host || sent.Scheme != base.Scheme {
			t.Fatalf("%q is sent as %q, and read as %v, %v", raw, sent, got, err)
		}
		if cleaned := path.Clean(got.Path); cleaned != "/base" && !strings.HasPrefix(cleaned, "/base/") {
			t.Fatalf("%q leaves the base: %q", raw, cleaned)
		}
		for _, p := range readings(u.Path) {
			resource, namespace, name := reads(p)
			if resource != "services" && resource != "pods" && resource != "nodes" {
				continue
			}
			split := strings.Split(name, ":")
			if len(split) == 3 {
				split = split[1:]
			}
			switch {
			case resource == "services" && namespace == "web" && split[0] == "any" && len(split) <= 2:
			case resource == "services" && namespace == "monitoring" && strings.Join(split, ":") == "prometheus:http":
			default:
				t.Fatalf("%q, read as %q, connects to %s %q in %q", raw, p, resource, name, namespace)
			}
		}
	})
}

// readings are the ways in which servers may read a decoded path.
func readings(p string) []string {
	all := []string{p, path.Clean(p), strings.ToLower(p)}
	for range 3 {
		again, err := url.PathUnescape(p)
		if err != nil {
			break
		}
		p = again
		all = append(all, p, path.Clean(p))
	}
	return all
}
