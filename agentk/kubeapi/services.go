package kubeapi

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/kas-agentk/kas/api/agentcfg"
)

// services are the Services that may be reached. nil: nobody has said.
type services struct {
	allowed map[service]struct{}
}

// service is a Service; no port: each of its ports.
type service struct{ namespace, name, port string }

func newServices(given []*agentcfg.ProxiedService) *services {
	s := &services{allowed: make(map[service]struct{}, len(given))}
	for _, g := range given {
		s.allowed[service{g.GetNamespace(), g.GetName(), g.GetPort()}] = struct{}{}
	}
	return s
}

// check refuses a path that nobody can be sure of, with INVALID_ARGUMENT, and one that is
// not allowed, with PERMISSION_DENIED.
func (s *services) check(path string) error {
	segments := segmentsOf(path)
	to, own := proxied(segments)
	if err := checkSegments(segments, own); err != nil {
		return err
	}
	if to == nil {
		return nil
	}
	return s.checkTarget(to)
}

func (s *services) checkTarget(to *target) error {
	if to.resource != "services" {
		return denied("%s cannot be reached through the API server's proxy by way of the agent", to)
	}
	_, name, port, valid := utilnet.SplitSchemeNamePort(to.name)
	if !valid || to.namespace == "" {
		return denied("%s is no Service: write namespaces/NAMESPACE/services/[SCHEME:]NAME[:PORT]/proxy", to)
	}
	if s == nil {
		return denied("Service %q in namespace %q cannot be reached yet: the agent has got no configuration", name, to.namespace)
	}
	for _, entry := range []service{{to.namespace, name, port}, {to.namespace, name, ""}} {
		if _, ok := s.allowed[entry]; ok {
			return nil
		}
	}
	return denied("Service %q in namespace %q%s cannot be reached through this agent: its configuration would have to name it, by an entry {namespace: %s, name: %s%s} of kubernetes_api.services",
		name, to.namespace, portWords(", port %q,", port), to.namespace, name, portWords(", port: %q", port))
}

func portWords(format, port string) string {
	if port == "" {
		return ""
	}
	return fmt.Sprintf(format, port)
}

func denied(format string, args ...any) error {
	return status.Errorf(codes.PermissionDenied, format, args...)
}

// target is what a path asks the API server to connect to.
type target struct {
	// resource is "services", or another one.
	resource, namespace, name string
}

// String is for people.
func (t *target) String() string {
	if t.namespace == "" {
		return fmt.Sprintf("%s %q", t.resource, t.name)
	}
	return fmt.Sprintf("%s %q in namespace %q", t.resource, t.name, t.namespace)
}

// proxied returns what the segments of a decoded path ask the API server to connect to, or
// nil, and how many segments the API server reads itself. Wherever in the path the core API
// begins, it is found: there are servers that have those of several clusters below one
// another. Upper case is no difference here, though it is to the API server.
func proxied(segments []string) (to *target, own int) {
	for i := range segments {
		if strings.EqualFold(segments[i], "api") && i+2 < len(segments) {
			if to, n := coreProxied(segments[i+2:]); to != nil {
				return to, i + 2 + n
			}
		}
	}
	return nil, len(segments)
}

// coreProxied is proxied for what comes after the version of the core API.
func coreProxied(segments []string) (to *target, own int) {
	rest, to := segments, &target{}
	byVerb := false // proxy/namespaces/NAMESPACE/services/NAME, as it once was
	for len(rest) > 0 && (strings.EqualFold(rest[0], "watch") || strings.EqualFold(rest[0], "proxy")) {
		byVerb = byVerb || strings.EqualFold(rest[0], "proxy")
		rest = rest[1:]
	}
	if len(rest) > 2 && strings.EqualFold(rest[0], "namespaces") {
		to.namespace = rest[1]
		rest = rest[2:]
	}
	if len(rest) < 2 {
		return nil, 0
	}
	to.resource, to.name = strings.ToLower(rest[0]), rest[1]
	rest = rest[2:]
	switch {
	case byVerb:
	case len(rest) > 0 && strings.EqualFold(rest[0], "proxy"):
		rest = rest[1:]
	default:
		return nil, 0
	}
	return to, len(segments) - len(rest)
}
