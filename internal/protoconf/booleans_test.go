package protoconf

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
)

func TestUnmarshal_BooleansOfYAML11(t *testing.T) {
	for name, row := range map[string]struct {
		project string // of two lines more
		want    *agentcfg.ManifestProject
	}{
		"yes":                       {"prune: yes", &agentcfg.ManifestProject{Prune: proto.Bool(true)}},
		"No, with a comment":        {"prune: No # never", &agentcfg.ManifestProject{Prune: proto.Bool(false)}},
		"ON and off":                {"allow_empty: ON\n    prune: off", &agentcfg.ManifestProject{AllowEmpty: true, Prune: proto.Bool(false)}},
		"y":                         {"suspend: y", &agentcfg.ManifestProject{Suspend: true}},
		"true as ever":              {"prune: true", &agentcfg.ManifestProject{Prune: proto.Bool(true)}},
		"in flow style, after café": {"{default_namespace: \"café\", prune: yes, allow_empty: no}", nil},
		"texts stay texts":          {"default_namespace: yes", &agentcfg.ManifestProject{DefaultNamespace: "yes"}},
		"an anchor and its alias":   {"prune: &no yes\n    atomic: *no", &agentcfg.ManifestProject{Prune: proto.Bool(true), Atomic: true}},
		"a merged map":              {"<<: {prune: no}", &agentcfg.ManifestProject{Prune: proto.Bool(false)}},
	} {
		t.Run(name, func(t *testing.T) {
			file := "gitops:\n  manifest_projects:\n  - id: a\n    " + row.project + "\n"
			if row.want == nil {
				file = "gitops:\n  manifest_projects:\n  - {id: a, " + row.project[1:] + "\n"
				row.want = &agentcfg.ManifestProject{DefaultNamespace: "café", Prune: proto.Bool(true)}
			}
			var cfg agentcfg.ConfigurationFile
			if err := Unmarshal("c.yaml", []byte(file), &cfg); err != nil {
				t.Fatal(err)
			}
			row.want.Id = "a"
			if got := cfg.GetGitops().GetManifestProjects()[0]; !proto.Equal(got, row.want) {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestUnmarshal_OtherWordsAreNoBooleans(t *testing.T) {
	for word, want := range map[string]string{
		"yEs":   "c.yaml:4: ",
		"maybe": "c.yaml:4: ",
		`"yes"`: "c.yaml:4: ",
		"1":     "c.yaml:4: ",
	} {
		err := Unmarshal("c.yaml", []byte("gitops:\n  manifest_projects:\n  - id: a\n    prune: "+word+"\n"), &agentcfg.ConfigurationFile{})
		if err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
			t.Errorf("%s: got %v", word, err)
		}
	}
}
