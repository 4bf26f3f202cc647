package render

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kas-agentk/kas/manifests"
)

// Entry is a directory to render, and how. It is made by Kustomize and Helm.
type Entry struct {
	chart bool
	// dir of the kustomization or the chart, clean; "." is the repository's root.
	dir string

	// Of charts alone.
	values      []string
	release     string
	namespace   string
	setsMissing bool // objects that name no namespace are in the release's
}

// Kustomize returns the entry of a directory with a kustomization. Its error says what is
// wrong with the path.
func Kustomize(dir string) (Entry, error) {
	clean, err := manifests.CleanPath(dir)
	if err != nil {
		return Entry{}, fmt.Errorf("kustomize.path %.80q %w", dir, err)
	}
	switch path.Base(clean) {
	case "kustomization.yaml", "kustomization.yml", "Kustomization":
		return Entry{}, fmt.Errorf("kustomize.path %.80q is a file: name its directory", dir)
	}
	return Entry{dir: clean}, nil
}

// Chart is what a Helm entry says, as package agentcfg has it.
type Chart struct {
	Dir         string
	ValuesFiles []string
	// Release name. Empty: the base name of Dir.
	Release string
	// Namespace of the release. Empty: DefaultNamespace.
	Namespace string
	// DefaultNamespace of the project.
	DefaultNamespace string
}

const (
	maxRelease     = 53 // as Helm has it
	maxValuesFiles = 100
)

var releaseName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// Helm returns the entry of a chart. Its error says what is wrong.
func Helm(c Chart) (Entry, error) {
	e := Entry{chart: true, release: c.Release, namespace: c.Namespace}
	var err error
	if e.dir, err = manifests.CleanPath(c.Dir); err != nil {
		return e, fmt.Errorf("helm.chart %.80q %w", c.Dir, err)
	}
	if path.Base(e.dir) == chartFile {
		return e, fmt.Errorf("helm.chart %.80q is a file: name its directory", c.Dir)
	}
	if len(c.ValuesFiles) > maxValuesFiles {
		return e, fmt.Errorf("helm.values_files has %d files, more than the limit of %d", len(c.ValuesFiles), maxValuesFiles)
	}
	for _, name := range c.ValuesFiles {
		clean, err := manifests.CleanPath(name)
		if err == nil && clean == "." {
			err = errors.New("is a directory")
		}
		if err != nil {
			return e, fmt.Errorf("helm.values_files: %.80q %w", name, err)
		}
		e.values = append(e.values, clean)
	}
	if e.release == "" {
		e.release = path.Base(e.dir)
	}
	if len(e.release) > maxRelease || !releaseName.MatchString(e.release) {
		return e, fmt.Errorf("helm.release_name %.80q is no name of a release: lower-case letters, digits, dashes and dots, at most %d; set helm.release_name", e.release, maxRelease)
	}
	if e.namespace == "" {
		e.namespace = c.DefaultNamespace
	} else if wrong := validation.IsDNS1123Label(e.namespace); len(wrong) > 0 {
		return e, fmt.Errorf("helm.namespace %.80q is no namespace's name: %s", e.namespace, wrong[0])
	}
	e.setsMissing = e.namespace != c.DefaultNamespace
	return e, nil
}

// Key is equal for entries that ask for the same.
func (e Entry) Key() string {
	return fmt.Sprintf("%t\x01%s\x01%s\x01%s\x01%s\x01%t", e.chart, e.dir, strings.Join(e.values, "\x02"), e.release, e.namespace, e.setsMissing)
}

// String names the entry as people write it.
func (e Entry) String() string {
	if e.chart {
		return "helm chart " + e.dir
	}
	return "kustomize " + e.dir
}

// Owns tells whether a file is the entry's, so that no glob selects it: what lies in its
// directory, and its values files.
func (e Entry) Owns(file string) bool {
	return e.dir == "." || strings.HasPrefix(file, e.dir+"/") || slices.Contains(e.values, file)
}
