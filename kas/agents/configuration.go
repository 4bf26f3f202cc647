package agents

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/internal/protoconf"
	"github.com/kas-agentk/kas/manifests"
)

// What a manifest project is where its configuration does not say, as GitLab has it.
const (
	DefaultGlob        = manifests.DefaultGlob
	DefaultNamespace   = "default"
	DefaultTimeout     = time.Hour
	DefaultDryRun      = "none"
	DefaultPrune       = true
	DefaultPropagation = "foreground"
	DefaultPolicy      = "must_match"
)

// What is kept of the cluster where the configuration does not say.
const (
	DefaultIdleTimeout = 10 * time.Minute
	DefaultShape       = "object"
)

var agentName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// ConfigurationPath is where in its configuration project an agent's configuration is.
func ConfigurationPath(name string) (string, error) {
	if !agentName.MatchString(name) {
		return "", fmt.Errorf("agent name %q is not [a-z0-9]([-a-z0-9]*[a-z0-9])?, at most 63 long", name)
	}
	return ".gitlab/agents/" + name + "/config.yaml", nil
}

// ParseConfiguration reads and checks the contents of the configuration file path. Its
// error is the first mistake, a *protoconf.Error. Defaults are not filled in.
func ParseConfiguration(path string, data []byte) (*agentcfg.ConfigurationFile, error) {
	cfg := &agentcfg.ConfigurationFile{}
	if err := protoconf.Unmarshal(path, data, cfg); err != nil {
		return nil, err
	}
	if mistake := check(cfg); mistake != nil {
		return nil, &protoconf.Error{Path: path, Line: protoconf.LineOf(data, mistake.keys), Message: mistake.message}
	}
	return cfg, nil
}

// mistake is what the schema cannot tell, and the keys and indexes that lead to it.
type mistake struct {
	keys    []string
	message string
}

func check(cfg *agentcfg.ConfigurationFile) *mistake {
	first := make(map[string]int)
	for i, project := range cfg.GetGitops().GetManifestProjects() {
		at := func(more ...string) []string {
			return append([]string{"gitops", "manifest_projects", strconv.Itoa(i)}, more...)
		}
		if before, ok := first[project.GetId()]; ok {
			return &mistake{at("id"), fmt.Sprintf(
				"manifest project %q is there twice, as number %d and number %d of manifest_projects: name it once, with all its paths",
				project.GetId(), before+1, i+1)}
		}
		first[project.GetId()] = i
		if ns := project.GetDefaultNamespace(); ns != "" {
			if wrong := validation.IsDNS1123Label(ns); len(wrong) > 0 {
				return &mistake{at("default_namespace"), fmt.Sprintf("default_namespace %q is no namespace's name: %s", ns, wrong[0])}
			}
		}
		for j, p := range project.GetPaths() {
			if keys, err := checkPath(p, cmp.Or(project.GetDefaultNamespace(), DefaultNamespace)); err != nil {
				return &mistake{at(append([]string{"paths", strconv.Itoa(j)}, keys...)...), err.Error()}
			}
		}
		for j, c := range project.GetHealthChecks() {
			if key, err := checkHealth(c); err != nil {
				return &mistake{at("health_checks", strconv.Itoa(j), key), err.Error()}
			}
		}
	}
	if mistake := checkPreload(cfg.GetClusterState().GetPreload()); mistake != nil {
		return mistake
	}
	return checkServices(cfg.GetKubernetesApi().GetServices())
}

// WithDefaults returns a copy of a configuration in which every manifest project says
// everything, and so does cluster_state if it is there.
func WithDefaults(cfg *agentcfg.ConfigurationFile) *agentcfg.ConfigurationFile {
	full := proto.CloneOf(cfg)
	for _, project := range full.GetGitops().GetManifestProjects() {
		fillIn(project)
	}
	if state := full.GetClusterState(); state != nil {
		fillInState(state)
	}
	return full
}

func fillIn(p *agentcfg.ManifestProject) {
	for _, field := range []struct {
		value *string
		is    string
	}{
		{&p.DefaultNamespace, DefaultNamespace},
		{&p.DryRunStrategy, DefaultDryRun},
		{&p.PrunePropagationPolicy, DefaultPropagation},
		{&p.InventoryPolicy, DefaultPolicy},
	} {
		if *field.value == "" {
			*field.value = field.is
		}
	}
	for _, timeout := range []**durationpb.Duration{&p.ReconcileTimeout, &p.PruneTimeout} {
		if (*timeout).AsDuration() == 0 {
			*timeout = durationpb.New(DefaultTimeout)
		}
	}
	if len(p.Paths) == 0 {
		p.Paths = []*agentcfg.PathCfg{{Glob: DefaultGlob}}
	}
	if p.Prune == nil {
		p.Prune = proto.Bool(DefaultPrune)
	}
}
