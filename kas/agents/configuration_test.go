package agents

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/internal/protoconf"
)

func TestConfigurationPath_OnlyForAgentNames(t *testing.T) {
	if path, err := ConfigurationPath("my-agent-1"); err != nil || path != ".gitlab/agents/my-agent-1/config.yaml" {
		t.Errorf("got %q, %v", path, err)
	}
	for _, name := range []string{"", "../x", "A", "-a", "a-", "a/b", "a.b", string(make([]byte, 64))} {
		if path, err := ConfigurationPath(name); err == nil {
			t.Errorf("%q gave %q", name, path)
		}
	}
}

func TestParseConfiguration_NamesTheMistake(t *testing.T) {
	for name, row := range map[string]struct{ file, want string }{
		"a key that does not exist": {
			"gitops:\n  manifest_project: []\n",
			`c.yaml:2: unknown field "manifest_project", expected one of [manifest_projects]`,
		},
		"a project that is there twice": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n  - id: c\n  - default_namespace: x\n    id: a/b\n",
			`c.yaml:6: manifest project "a/b" is there twice, as number 1 and number 3 of manifest_projects: name it once, with all its paths`,
		},
		"a namespace that cannot be": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    default_namespace: Not_One\n",
			`c.yaml:4: default_namespace "Not_One" is no namespace's name: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`,
		},
		"a bad glob": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - glob: '**/*.yaml'\n    - glob: '[a'\n",
			`c.yaml:6: glob "[a" is not a valid pattern`,
		},
		"an entry of nothing": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - glob: a\n    - {}\n",
			"c.yaml:6: an entry of paths is empty: write glob, kustomize or helm in it",
		},
		"an entry of two things": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - glob: a\n      kustomize: {path: b}\n",
			"c.yaml:5: an entry of paths has both glob and kustomize: write an entry for each",
		},
		"a kustomization outside of the repository": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - kustomize:\n        path: ../b\n",
			`c.yaml:6: kustomize.path "../b" leads out of the repository`,
		},
		"a kustomization without a path": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - kustomize: {}\n",
			`c.yaml:5: gitops.manifest_projects[0].paths[0].kustomize.path: value length must be at least 1 characters`,
		},
		"a chart's file": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - helm:\n        chart: web/Chart.yaml\n",
			`c.yaml:6: helm.chart "web/Chart.yaml" is a file: name its directory`,
		},
		"values outside of the repository": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - helm:\n        chart: web\n        values_files:\n        - ../x.yaml\n",
			`c.yaml:7: helm.values_files: "../x.yaml" leads out of the repository`,
		},
		"a release that cannot be": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - helm:\n        chart: web\n        release_name: Web\n",
			`c.yaml:7: helm.release_name "Web" is no name of a release`,
		},
		"a health check that does not compile": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    health_checks:\n    - kind: Widget\n      current: statsu.ready\n",
			`c.yaml:6: current: "statsu.ready" is no CEL expression: ERROR: <input>:1:1: undeclared reference to 'statsu'`,
		},
		"a health check that is no truth value": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    health_checks:\n    - kind: Widget\n      failed: '\"a\"'\n      current: 'true'\n",
			`c.yaml:6: failed: "\"a\"": the expression must be true or false, not string`,
		},
		"a group with a version to be kept": {
			"cluster_state:\n  preload:\n  - resource: pods\n  - group: apps/v1\n    resource: deployments\n",
			`c.yaml:4: group "apps/v1" has a version: write "apps", not "apps/v1"`,
		},
		"a group to be kept that is none": {
			"cluster_state:\n  preload:\n  - group: 'Apps'\n    resource: deployments\n",
			`c.yaml:3: group "Apps" is no group of resources`,
		},
		"a kind to be kept": {
			"cluster_state:\n  preload:\n  - group: apps\n    resource: Deployment\n",
			`c.yaml:4: resource "Deployment" is none: write the plural in lower case, for example "deployments", and its group in group`,
		},
		"a subresource to be kept": {
			"cluster_state:\n  preload:\n  - resource: pods/log\n",
			`c.yaml:3: resource "pods/log" is a subresource, which cannot be kept`,
		},
		"nothing to be kept": {
			"cluster_state:\n  preload:\n  - group: apps\n",
			`c.yaml:3: cluster_state.preload[0].resource: value length must be at least 1 characters`,
		},
		"something to be kept twice": {
			"cluster_state:\n  preload:\n  - resource: pods\n  - resource: pods\n    shape: table\n  - resource: pods\n    shape: object\n",
			`c.yaml:6: pods is there twice in preload, as number 1 and number 3: leave one out`,
		},
		"a shape that there is not": {
			"cluster_state:\n  preload:\n  - resource: pods\n    shape: wide\n",
			`c.yaml:4: cluster_state.preload[0].shape: `,
		},
		"a time to keep things that cannot be": {
			"cluster_state:\n  idle_timeout: -1s\n",
			`c.yaml:2: cluster_state.idle_timeout: `,
		},
		"a Service in no namespace": {
			"kubernetes_api:\n  services:\n  - namespace: a\n    name: b\n  - name: b\n",
			`c.yaml:5: kubernetes_api.services[1].namespace: value length must be at least 1 characters`,
		},
		"a Service of a namespace that cannot be": {
			"kubernetes_api:\n  services:\n  - namespace: a/b\n    name: c\n",
			`c.yaml:3: namespace "a/b" is no namespace's name: `,
		},
		"a Service and its port in one": {
			"kubernetes_api:\n  services:\n  - namespace: a\n    name: b:http\n",
			`c.yaml:4: name "b:http" is no Service's name: `,
		},
		"a port that there cannot be": {
			"kubernetes_api:\n  services:\n  - {namespace: a, name: b, port: '80'}\n  - namespace: a\n    name: b\n    port: '65536'\n",
			`c.yaml:6: port "65536" is none: a number must be between 1 and 65535, inclusive`,
		},
		"a port that is written strangely": {
			"kubernetes_api:\n  services:\n  - {namespace: a, name: b, port: '080'}\n",
			`c.yaml:3: port "080" is none: write 80`,
		},
		"a port with its protocol": {
			"kubernetes_api:\n  services:\n  - {namespace: a, name: b, port: http/tcp}\n",
			`c.yaml:3: port "http/tcp" is none: write its number, its name, or nothing for each port of the Service`,
		},
		"a Service that is there twice": {
			"kubernetes_api:\n  services:\n  - {namespace: a, name: b, port: http}\n  - {namespace: a, name: b}\n  - namespace: a\n    port: http\n    name: b\n",
			`c.yaml:7: b in namespace a is there twice in services, as number 1 and number 3: leave one out`,
		},
		"a chart's namespace that cannot be": {
			"gitops:\n  manifest_projects:\n  - id: a/b\n    paths:\n    - helm:\n        chart: web\n        namespace: Web\n",
			`c.yaml:7: helm.namespace "Web" is no namespace's name`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfiguration("c.yaml", []byte(row.file))
			var mistake *protoconf.Error
			if !errors.As(err, &mistake) {
				t.Fatalf("got %v", err)
			}
			if got := mistake.Error(); len(got) < len(row.want) || got[:len(row.want)] != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestParseConfiguration_NothingIsAConfiguration(t *testing.T) {
	for _, file := range []string{"", "# later\n", "{}", "gitops: {}\n"} {
		if cfg, err := ParseConfiguration("c.yaml", []byte(file)); err != nil || len(WithDefaults(cfg).GetGitops().GetManifestProjects()) != 0 {
			t.Errorf("%q: got %v, %v", file, cfg, err)
		}
	}
}

func TestWithDefaults_AreGitLabs(t *testing.T) {
	said := &agentcfg.ManifestProject{
		Id: "said", DefaultNamespace: "ns", Paths: []*agentcfg.PathCfg{{Glob: "x"}}, ReconcileTimeout: durationpb.New(time.Minute),
		DryRunStrategy: "server", Prune: proto.Bool(false), PruneTimeout: durationpb.New(time.Second),
		PrunePropagationPolicy: "orphan", InventoryPolicy: "adopt_all", Ref: &agentcfg.GitRef{Ref: &agentcfg.GitRef_Tag{Tag: "v1"}}, AllowEmpty: true,
	}
	bare := &agentcfg.ManifestProject{Id: "bare", ReconcileTimeout: durationpb.New(0)}
	in := &agentcfg.ConfigurationFile{Gitops: &agentcfg.Gitops{ManifestProjects: []*agentcfg.ManifestProject{said, bare}}}
	before := proto.CloneOf(in)
	want := proto.CloneOf(in)
	want.Gitops.ManifestProjects[1] = &agentcfg.ManifestProject{
		Id: "bare", DefaultNamespace: "default", Paths: []*agentcfg.PathCfg{{Glob: "/**/*.{yaml,yml,json}"}},
		ReconcileTimeout: durationpb.New(time.Hour), DryRunStrategy: "none", Prune: proto.Bool(true), PruneTimeout: durationpb.New(time.Hour),
		PrunePropagationPolicy: "foreground", InventoryPolicy: "must_match",
	}
	if diff := cmp.Diff(want, WithDefaults(in), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, in, protocmp.Transform()); diff != "" {
		t.Errorf("the argument was changed: %s", diff)
	}
}

func TestWithDefaults_WhatIsKeptOfTheClusterSaysEverything(t *testing.T) {
	in := &agentcfg.ConfigurationFile{ClusterState: &agentcfg.ClusterState{
		Preload: []*agentcfg.KeptResource{{Resource: "pods"}, {Group: "apps", Resource: "deployments", Shape: "table"}},
	}}
	want := &agentcfg.ConfigurationFile{ClusterState: &agentcfg.ClusterState{
		Preload: []*agentcfg.KeptResource{
			{Resource: "pods", Shape: "object"}, {Group: "apps", Resource: "deployments", Shape: "table"},
		},
		IdleTimeout: durationpb.New(10 * time.Minute),
	}}
	if diff := cmp.Diff(want, WithDefaults(in), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	want.ClusterState.IdleTimeout, want.ClusterState.SecretValues = durationpb.New(time.Hour), true
	if diff := cmp.Diff(want, WithDefaults(want), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseConfiguration(f *testing.F) {
	f.Add("gitops:\n  manifest_projects:\n  - id: a/b\n    default_namespace: Not_One\n")
	f.Add("gitops: &a\n  manifest_projects: [{id: x, paths: [{glob: '['}]}]\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, file string) {
		cfg, err := ParseConfiguration("c.yaml", []byte(file))
		var mistake *protoconf.Error
		if err != nil && !errors.As(err, &mistake) {
			t.Fatalf("not a mistake with a place: %v", err)
		}
		if err == nil {
			WithDefaults(cfg)
		}
	})
}
