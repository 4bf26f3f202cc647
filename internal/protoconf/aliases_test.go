package protoconf

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
)

const aliased = `gitops:
  manifest_projects:
  - &first
    id: a
    default_namespace: &ns web
    paths: &paths
    - {glob: "/a/**"}
    - glob: /b/**
  - id: b
    default_namespace: *ns
    paths: *paths
  - <<: *first
    id: c
  - <<: [{prune: false, default_namespace: x}, *first]
    id: d
`

func TestUnmarshal_AliasesAndMergeKeysMeanWhatTheyStandFor(t *testing.T) {
	const written = `gitops:
  manifest_projects:
  - {id: a, default_namespace: web, paths: [{glob: "/a/**"}, {glob: "/b/**"}]}
  - {id: b, default_namespace: web, paths: [{glob: "/a/**"}, {glob: "/b/**"}]}
  - {id: c, default_namespace: web, paths: [{glob: "/a/**"}, {glob: "/b/**"}]}
  - {id: d, default_namespace: x, prune: false, paths: [{glob: "/a/**"}, {glob: "/b/**"}]}
`
	var got, want agentcfg.ConfigurationFile
	if err := Unmarshal("config.yaml", []byte(aliased), &got); err != nil {
		t.Fatal(err)
	}
	if err := Unmarshal("config.yaml", []byte(written), &want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&got, &want) {
		t.Errorf("got  %v\nwant %v", &got, &want)
	}
}

func TestUnmarshal_MistakesBesideAliasesKeepTheirLines(t *testing.T) {
	const unknown = `unknown field "nope", expected one of`
	for name, row := range map[string]struct{ file, want string }{
		"a key after aliases": {
			aliased + "    nope: 1\n", "config.yaml:16: " + unknown,
		},
		"a key inside flow style": {
			aliased + "    ref:\n      {\n        branch: main,\n        nope: 1}\n", "config.yaml:19: " + unknown,
		},
		"a key in what is merged, once": {
			"gitops:\n  manifest_projects:\n  - &x\n    id: a\n    nope: 1\n  - <<: *x\n    id: b\n", "config.yaml:5: " + unknown,
		},
		"a value that breaks a rule, after a comment": {
			"observability: {logging: {level: &l debug, grpc_level: *l}}\n\n# why\ngitops:\n  manifest_projects:\n  - id: ''\n",
			"config.yaml:6: gitops.manifest_projects[0].id: value length must be at least 1 characters",
		},
		"after a text of several lines": {
			"gitops:\n  manifest_projects:\n  - id: &a |\n      b\n      c\n    default_namespace: *a\n    nope: 1\n", "config.yaml:7: " + unknown,
		},
		"an anchor in itself": {
			"gitops: &g\n  manifest_projects: *g\n", `config.yaml: yaml: anchor 'g' value contains itself`,
		},
		"a merge of no map": {
			"gitops:\n  <<: [a]\n", "config.yaml: yaml: map merge requires map or sequence of maps as the value",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := Unmarshal("config.yaml", []byte(row.file), &agentcfg.ConfigurationFile{})
			if err == nil || !strings.HasPrefix(err.Error(), row.want) {
				t.Errorf("got  %v\nwant %s…", err, row.want)
			}
		})
	}
}

func TestUnmarshal_BombsAreRefused(t *testing.T) {
	var nested strings.Builder
	nested.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&nested, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	long := "a: &a " + strings.Repeat("x", 50_000) + "\nb: [" + strings.TrimSuffix(strings.Repeat("*a, ", 2000), ", ") + "]\n"
	for name, row := range map[string]struct{ file, want string }{
		"many small ones": {nested.String(), "alias"},
		"a long text":     {long, "config.yaml:1: aliases expand to more than the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Unmarshal("config.yaml", []byte(row.file), &agentcfg.ConfigurationFile{})
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %s", err, row.want)
			}
		})
	}
}

func TestLineOf_FollowsAliases(t *testing.T) {
	for name, row := range map[string]struct {
		keys string
		want int
	}{
		"a key":                         {"gitops.manifest_projects.1.id", 9},
		"an aliased value":              {"gitops.manifest_projects.1.paths.1.glob", 8},
		"a merged key":                  {"gitops.manifest_projects.2.paths.0.glob", 7},
		"the nearest thing around it":   {"gitops.manifest_projects.2.prune", 12},
		"something that is not there":   {"observability", 1},
		"an index beyond the end":       {"gitops.manifest_projects.9", 2},
		"an index that is not a number": {"gitops.manifest_projects.x", 2},
	} {
		t.Run(name, func(t *testing.T) {
			if got := LineOf([]byte(aliased), strings.Split(row.keys, ".")); got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
		})
	}
}
