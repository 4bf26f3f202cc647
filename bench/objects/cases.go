package objects

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Case is a kind of set.
type Case struct {
	// Name is short, for flags and file names; Title is for people.
	Name, Title string
	// Size is how many objects the set has.
	Size int
	// Healable: all objects are ConfigMaps with a key named "key", which a stranger
	// may edit.
	Healable bool

	make func(m *maker, n int)
}

// ConfigMaps is n ConfigMaps in one namespace, each with about size bytes of data.
func ConfigMaps(n, size int) Case {
	return Case{
		Name: fmt.Sprintf("configmaps-%d", n), Title: fmt.Sprintf("%s ConfigMaps of %d B", thousands(n), size), Size: n,
		Healable: true,
		make: func(m *maker, n int) {
			for i := range n {
				m.configMap(i, m.namespace(0), size)
			}
		},
	}
}

// Deployments is n Deployments in one namespace. They want no pods.
func Deployments(n int) Case {
	return Case{
		Name: fmt.Sprintf("deployments-%d", n), Title: thousands(n) + " Deployments", Size: n,
		make: func(m *maker, n int) {
			for i := range n {
				m.deployment(i, m.namespace(0))
			}
		},
	}
}

// Mixed is n objects as a cluster's platform repository holds them: of every hundred
// some 44 ConfigMaps, 10 each of Secrets, Services, Deployments, Roles and custom
// resources, and the namespaces and CustomResourceDefinitions that they need.
func Mixed(n int) Case {
	return Case{
		Name: fmt.Sprintf("mixed-%d", n), Title: thousands(n) + " mixed objects", Size: n, make: mixed,
	}
}

// perNamespace and perDefinition say how many objects of a Mixed set share one.
const (
	perNamespace  = 250
	perDefinition = 1000
)

func mixed(m *maker, n int) {
	namespaces, definitions := n/perNamespace+1, n/perDefinition+1
	for i := range definitions {
		m.definition(i)
	}
	for i := range namespaces {
		m.add(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": m.namespace(i + 1)}})
	}
	for i := range n - namespaces - definitions {
		ns := m.namespace(i%namespaces + 1)
		switch i % 20 {
		case 0, 1:
			m.secret(i, ns)
		case 2, 3:
			m.service(i, ns)
		case 4, 5:
			m.deployment(i, ns)
		case 6, 7:
			m.role(i, ns)
		case 8, 9:
			m.custom(i, ns, i%definitions)
		default:
			m.configMap(i, ns, 200)
		}
	}
}

// Make returns the set. The namespace that prefix names must exist.
func (c Case) Make(prefix string, version int) ([]Object, error) {
	m := &maker{prefix: prefix, version: version, set: make([]Object, 0, c.Size)}
	c.make(m, c.Size)
	return m.set, m.err
}

// maker collects a set.
type maker struct {
	prefix  string
	version int
	set     []Object
	err     error
}

// namespace is the n-th; the first exists already.
func (m *maker) namespace(n int) string {
	if n == 0 {
		return m.prefix
	}
	return fmt.Sprintf("%s-%03d", m.prefix, n)
}

// value of the n-th object's content: every hundredth has one of its own in each version.
func (m *maker) value(n int) string {
	if n%100 == 10 {
		return fmt.Sprintf("version-%d", m.version)
	}
	return "version-0"
}

func (m *maker) add(content map[string]any) {
	data, err := json.Marshal(content) // sorts the keys
	if err == nil {
		var o Object
		if o, err = parse(data); err == nil {
			m.set = append(m.set, o)
		}
	}
	if err != nil && m.err == nil {
		m.err = err
	}
}

func metadata(name, namespace string) map[string]any {
	return map[string]any{
		"name": name, "namespace": namespace,
		"labels": map[string]any{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "bench"},
	}
}

func (m *maker) configMap(n int, namespace string, size int) {
	m.add(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(fmt.Sprintf("cm-%05d", n), namespace),
		"data": map[string]any{"key": m.value(n), "text": strings.Repeat("0123456789abcde\n", size/16)},
	})
}

func (m *maker) secret(n int, namespace string) {
	m.add(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": metadata(fmt.Sprintf("secret-%05d", n), namespace),
		"data": map[string]any{"key": "dmFsdWU="},
	})
}

func (m *maker) service(n int, namespace string) {
	name := fmt.Sprintf("service-%05d", n)
	m.add(map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": metadata(name, namespace),
		"spec": map[string]any{
			"selector": map[string]any{"app.kubernetes.io/name": name},
			"ports":    []any{map[string]any{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}},
		},
	})
}

func (m *maker) deployment(n int, namespace string) {
	name := fmt.Sprintf("deployment-%05d", n)
	selector := map[string]any{"app.kubernetes.io/name": name}
	m.add(map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(name, namespace),
		"spec": map[string]any{
			"replicas": 0,
			"selector": map[string]any{"matchLabels": selector},
			"template": map[string]any{
				"metadata": map[string]any{"labels": selector},
				"spec": map[string]any{"containers": []any{map[string]any{
					"name": "main", "image": "registry.example.com/app:v1",
					"env":       []any{map[string]any{"name": "VERSION", "value": m.value(n)}},
					"ports":     []any{map[string]any{"containerPort": 8080, "protocol": "TCP"}},
					"resources": map[string]any{"requests": map[string]any{"cpu": "10m", "memory": "32Mi"}},
				}}},
			},
		},
	})
}

func (m *maker) role(n int, namespace string) {
	m.add(map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata(fmt.Sprintf("role-%05d", n), namespace),
		"rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"configmaps"}, "verbs": []any{"get", "list"}}},
	})
}

// group of this set's custom resources, and kind of the n-th.
func (m *maker) group() string     { return m.prefix + ".bench.example.com" }
func (m *maker) kind(n int) string { return fmt.Sprintf("Widget%d", n) }

func (m *maker) definition(n int) {
	kind := m.kind(n)
	plural := strings.ToLower(kind) + "s"
	m.add(map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + "." + m.group()},
		"spec": map[string]any{
			"group": m.group(), "scope": "Namespaced",
			"names": map[string]any{"kind": kind, "listKind": kind + "List", "plural": plural, "singular": strings.ToLower(kind)},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{
					"type": "object",
					"properties": map[string]any{"spec": map[string]any{
						"type": "object", "properties": map[string]any{"size": map[string]any{"type": "integer"}},
					}},
				}},
			}},
		},
	})
}

func (m *maker) custom(n int, namespace string, definition int) {
	m.add(map[string]any{
		"apiVersion": m.group() + "/v1", "kind": m.kind(definition),
		"metadata": metadata(fmt.Sprintf("widget-%05d", n), namespace),
		"spec":     map[string]any{"size": n},
	})
}

// thousands writes 1000 as 1,000.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
