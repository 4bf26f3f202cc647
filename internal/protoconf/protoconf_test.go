package protoconf

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kas-agentk/kas/api/agentcfg"
)

func TestUnmarshal_ReadsGitLabsSchema(t *testing.T) {
	const file = `
gitops:
  manifest_projects:
  - id: platform/staging
    default_namespace: web
    reconcile_timeout: 90s
    prune: false
    inventory_policy: adopt_all
    ref: {tag: v1}
    paths:
    - glob: /manifests/**/*.yaml
observability:
  logging: {level: debug}
ci_access:
  projects:
  - id: platform/ci
    access_as: {ci_job: {}}
`
	var c agentcfg.ConfigurationFile
	if err := Unmarshal("config.yaml", []byte(file), &c); err != nil {
		t.Fatal(err)
	}
	p := c.GetGitops().GetManifestProjects()[0]
	if p.GetId() != "platform/staging" || p.GetReconcileTimeout().AsDuration() != 90*time.Second ||
		p.Prune == nil || p.GetPrune() || p.GetRef().GetTag() != "v1" || p.GetPaths()[0].GetGlob() != "/manifests/**/*.yaml" {
		t.Errorf("read %v", p)
	}
	if c.GetObservability().GetLogging().GetLevel() != agentcfg.LogLevel_debug {
		t.Errorf("read level %v", c.GetObservability().GetLogging().GetLevel())
	}
}

func TestUnmarshal_NamesTheMistake(t *testing.T) {
	for name, row := range map[string]struct{ file, want string }{
		"unknown key": {
			"gitops:\n  manifest_projects:\n  - id: a\n    dflt: x\n",
			`config.yaml:4: unknown field "dflt", expected one of [id default_namespace paths reconcile_timeout dry_run_strategy prune prune_timeout ...]`,
		},
		"value that breaks a rule": {
			"gitops:\n  manifest_projects:\n  - id: a\n    inventory_policy: wat\n",
			`config.yaml:4: gitops.manifest_projects[0].inventory_policy: value must be in list [, must_match, adopt_if_no_inventory, adopt_all] (string.in)`,
		},
		"two of a oneof": {
			"gitops:\n  manifest_projects:\n  - id: a\n    ref: {branch: a, tag: b}\n",
			"config.yaml:4: field branch is already set for oneof ref",
		},
		"repeated key": {
			"gitops: {}\ngitops: {}\n",
			`config.yaml:2: mapping key "gitops" already defined at line 1`,
		},
		"tab": {
			"gitops:\n\tmanifest_projects: []\n",
			"config.yaml:2: found character that cannot start any token (YAML wants spaces, not tabs, for indentation)",
		},
		"syntax": {
			"gitops:\n  a: [\n",
			"config.yaml:2: did not find expected node content",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := Unmarshal("config.yaml", []byte(row.file), &agentcfg.ConfigurationFile{})
			var mistake *Error
			if !errors.As(err, &mistake) {
				t.Fatalf("got %v, want an *Error", err)
			}
			if mistake.Error() != row.want {
				t.Errorf("got  %s\nwant %s", mistake, row.want)
			}
		})
	}
}

func TestUnmarshal_EmptyFileIsEmptyConfiguration(t *testing.T) {
	if err := Unmarshal("config.yaml", []byte("# nothing yet\n"), &agentcfg.ConfigurationFile{}); err != nil {
		t.Fatal(err)
	}
}

func TestUnmarshal_AllLineBreaksCount(t *testing.T) {
	for name, row := range map[string]struct{ file, want string }{
		"of old Macs": {"\r0", "config.yaml:2: expected fields for agentcfg.ConfigurationFile, got scalar"},
		"of Windows":  {"gitops: {}\r\nnope: 1\r\n", `config.yaml:2: unknown field "nope"`},
		"of Unicode":  {"\u20280", "config.yaml: the file cannot be read: write plain YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Unmarshal("config.yaml", []byte(row.file), &agentcfg.ConfigurationFile{})
			if err == nil || !strings.HasPrefix(err.Error(), row.want) {
				t.Errorf("got  %v\nwant %s…", err, row.want)
			}
		})
	}
}
