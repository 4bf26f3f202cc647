package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// stagesFile is where kwok's stages are put beside it.
const stagesFile = "stages.yaml"

// recipe is how a Part is built.
type recipe struct {
	what     string // for people
	usually  string // how long it takes, for people
	module   string // folder of its module in the main module
	packages []string
	ldflags  string
	env      []string
	// after completes the folder of built programs.
	after func(ctx context.Context, module, dir string) error
	// revision is raised when after changes.
	revision int
}

// kubernetesVersion is what kube-apiserver says it is; go build knows nothing of it.
// It must be that of k8s.io/kubernetes in controlplane/go.mod; a test compares them.
const kubernetesVersion = "v1.34.4"

var recipes = map[Part]recipe{
	PartKubernetes: {
		what:     "etcd, kube-apiserver, controller-manager, scheduler, kubectl",
		usually:  "4 to 6 minutes",
		module:   "sandbox/controlplane",
		packages: []string{"./cmd/k8s"},
		ldflags:  "-s -w " + versionFlags(kubernetesVersion),
		env:      []string{"CGO_ENABLED=0"},
		after: func(_ context.Context, _, dir string) error {
			return os.Symlink("k8s", filepath.Join(dir, "kubectl"))
		},
	},
	PartKwok: {
		what:     "fake nodes",
		usually:  "1 to 2 minutes",
		module:   "sandbox/controlplane/kwok",
		packages: []string{"sigs.k8s.io/kwok/cmd/kwok"},
		ldflags:  "-s -w",
		env:      []string{"CGO_ENABLED=0"},
		after:    copyStages,
	},
	PartGitaly: {
		what:    "Git storage",
		usually: "1 minute",
		module:  "sandbox/gitaly",
		packages: []string{
			"gitlab.com/gitlab-org/gitaly/v14/cmd/gitaly",
			"gitlab.com/gitlab-org/gitaly/v14/cmd/gitaly-hooks",
			"gitlab.com/gitlab-org/gitaly/v14/cmd/gitaly-ssh",
			"./cmd/bundle", // in place of Gitaly's Ruby workers
		},
		ldflags: "-s -w",
	},
}

func versionFlags(version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	const variable = "-X k8s.io/component-base/version."
	return variable + "gitVersion=" + version + " " + variable + "gitMajor=" + major + " " + variable + "gitMinor=" + minor
}

// stages is how nodes and pods live: nodes are ready at once and say so every 20 s, pods
// are ready as soon as they are scheduled and gone as soon as they are deleted.
var stages = []string{
	"node/fast/node-initialize.yaml",
	"node/heartbeat/node-heartbeat.yaml",
	"pod/fast/pod-ready.yaml",
	"pod/fast/pod-complete.yaml",
	"pod/fast/pod-delete.yaml",
}

// copyStages takes the stages out of kwok's own module, so that they fit the version.
func copyStages(ctx context.Context, module, dir string) error {
	kwok, err := goOutput(ctx, module, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
	if err != nil {
		return fmt.Errorf("find kwok's stages: %w", err)
	}
	var all bytes.Buffer
	for _, name := range stages {
		data, err := os.ReadFile(filepath.Join(kwok, "kustomize", "stage", name))
		if err != nil {
			return fmt.Errorf("read kwok's stages: %w", err)
		}
		_, _ = fmt.Fprintf(&all, "---\n%s\n", data)
	}
	if err := os.WriteFile(filepath.Join(dir, stagesFile), all.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write kwok's stages: %w", err)
	}
	return nil
}
