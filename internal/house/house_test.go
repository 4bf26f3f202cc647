// Package house tests that the rooms import each other only as the architecture
// allows (docs/architecture.md), from what the Go tool says of every package. The
// linter has the same rules; this test also sees what a nolint would hide.
package house

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kas-agentk/kas"

// rules: the first whose prefix is a package's own decides what it may import. A
// package may always import those at or below its own room's prefix that are listed.
var rules = []struct {
	room  string
	allow []string
}{
	{"api", []string{"api"}},
	{"inventory", nil},
	{"manifests/render", []string{"manifests"}},
	{"manifests", []string{"inventory"}},
	{"gitops/celhealth", []string{"gitops"}},
	{"gitops", []string{"inventory", "manifests"}},
	{"kasctl", []string{"api", "internal"}},
	{"kas", []string{"api", "manifests", "inventory", "internal"}},
	{"agentk", []string{"api", "gitops", "manifests", "inventory", "internal"}},
	{"ror", []string{"api", "internal"}},
	{"internal", []string{"api", "internal"}},
	{"sandbox", []string{"api", "internal", "sandbox"}},
	{"cmd/kasctl", []string{"kasctl"}},
	{"cmd/kas", []string{"kas"}},
	{"cmd/agentk", []string{"agentk"}},
	{"cmd/ror", []string{"ror"}},
}

// everything: rooms that may see several.
var everything = []string{"e2e", "bench", "cmd/sandbox"}

// libraries that a room must not use, directly.
var noLibrary = map[string][]string{
	"inventory": {"google.golang.org/grpc", "k8s.io/client-go"},
	"manifests": {"google.golang.org/grpc", "k8s.io/client-go"},
	"gitops":    {"google.golang.org/grpc", "k8s.io/client-go"},
}

// notBelow: rooms that others may import, but not all that is inside them. Rendering is
// heavy, and kas alone does it.
var notBelow = map[string][]string{
	"agentk":    {"manifests/render"},
	"gitops":    {"manifests/render"},
	"inventory": {"manifests/render"},
}

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func TestImports_FollowTheHouse(t *testing.T) {
	for _, p := range packages(t) {
		room := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if why := forbidden(room, imported); why != "" {
				t.Errorf("%s imports %s: %s", room, imported, why)
			}
		}
	}
}

func TestForbidden_KnowsARuleBroken(t *testing.T) {
	for _, row := range []struct{ room, imported string }{
		{"kas/push", module + "/agentk"},
		{"kas/push", module + "/kas/gitaly"},
		{"agentk/desired", module + "/agentk/report"},
		{"gitops", module + "/api/agentrpc"},
		{"gitops", "k8s.io/client-go/dynamic"},
		{"ror/page", module + "/kas/rails"},
		{"manifests", module + "/gitops"},
		{"cmd/kas", module + "/agentk"},
		{"newroom", module + "/api/agentrpc"},
		{"agentk/desired", module + "/manifests/render"},
		{"gitops", module + "/manifests/render"},
		{"manifests/render", module + "/api/agentcfg"},
		{"manifests", module + "/manifests/render"},
	} {
		if forbidden(row.room, row.imported) == "" {
			t.Errorf("%s may import %s", row.room, row.imported)
		}
	}
}

// forbidden says why room must not import imported; empty: it may.
func forbidden(room, imported string) string {
	for _, library := range noLibrary[top(room)] {
		if below(imported, library) {
			return "this room must not use the library " + library
		}
	}
	for _, inside := range notBelow[top(room)] {
		if below(imported, module+"/"+inside) {
			return "this room must not use " + inside
		}
	}
	if !below(imported, module) || slices.ContainsFunc(everything, func(e string) bool { return below(room, e) }) {
		return ""
	}
	target := strings.TrimPrefix(imported, module+"/")
	if target == room {
		return "" // its own external test
	}
	for _, rule := range rules {
		if !below(room, rule.room) {
			continue
		}
		// The root of a room wires what is inside it. ror's rooms may share its registry.
		if room == rule.room && below(target, rule.room) && rule.room != "manifests" {
			return ""
		}
		if rule.room == "ror" && below(target, "ror") {
			return ""
		}
		for _, allowed := range rule.allow {
			if below(target, allowed) {
				return ""
			}
		}
		return "the room may import only " + strings.Join(rule.allow, ", ")
	}
	return "the room has no rule: add one here and in docs/architecture.md"
}

// TestAgentk_LinksNoRenderer: agentk stays small.
func TestAgentk_LinksNoRenderer(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/agentk")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for p := range strings.FieldsSeq(string(out)) {
		if below(p, "helm.sh/helm/v3") || below(p, module+"/manifests/render") {
			t.Errorf("agentk links %s", p)
		}
	}
}

func top(room string) string { return strings.SplitN(room, "/", 2)[0] }

func below(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages in %s", len(all), root)
	}
	return all
}
