package harness

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// ErrNoStatus says that ror has no status of the project yet.
var ErrNoStatus = errors.New("ror has no status of the project yet")

// Status asks ror for the status of the fixture's manifest project.
func (f *Fixture) Status() (*syncstatus.ProjectStatus, error) {
	return f.StatusOf(f.Manifests.Path)
}

// StatusOf asks ror for the status of one of the agent's manifest projects.
func (f *Fixture) StatusOf(project string) (*syncstatus.ProjectStatus, error) {
	all, err := f.Client().SyncStatus(f.T.Context(), f.Config.Path, f.Agent.ID)
	if err != nil {
		return nil, err
	}
	for _, s := range all.Projects {
		if s.GetProjectId() == project {
			return s, nil
		}
	}
	return nil, ErrNoStatus
}

// WaitStatus waits until the status of the fixture's manifest project passes check.
func (f *Fixture) WaitStatus(check func(*syncstatus.ProjectStatus) error) *syncstatus.ProjectStatus {
	f.T.Helper()
	return f.WaitStatusOf(f.Manifests.Path, check)
}

// WaitStatusOf is WaitStatus for any of the agent's manifest projects.
func (f *Fixture) WaitStatusOf(project string, check func(*syncstatus.ProjectStatus) error) *syncstatus.ProjectStatus {
	f.T.Helper()
	var found *syncstatus.ProjectStatus
	f.Eventually(func() error {
		s, err := f.StatusOf(project)
		if err != nil {
			return err
		}
		if err := check(s); err != nil {
			return fmt.Errorf("%w\nthe status is:\n%s", err, Summary(s))
		}
		found = s
		return nil
	})
	return found
}

// WaitSynced waits until the commit is applied and everything in it is healthy.
func (f *Fixture) WaitSynced(commit string) *syncstatus.ProjectStatus {
	f.T.Helper()
	return f.WaitStatus(Is(syncstatus.State_STATE_SYNCED, commit))
}

// Is is a check for a state at a commit, which must be both wanted and, unless the
// state says otherwise, applied.
func Is(state syncstatus.State, commit string) func(*syncstatus.ProjectStatus) error {
	return func(s *syncstatus.ProjectStatus) error {
		switch {
		case s.GetState() != state:
			return fmt.Errorf("state is %s, want %s", s.GetState(), state)
		case s.GetWantedCommit() != commit:
			return fmt.Errorf("wanted commit is %q, want %q", s.GetWantedCommit(), commit)
		case state == syncstatus.State_STATE_SYNCED && s.GetAppliedCommit() != commit:
			return fmt.Errorf("applied commit is %q, want %q", s.GetAppliedCommit(), commit)
		}
		return nil
	}
}

// Object finds an object in a status.
func Object(s *syncstatus.ProjectStatus, kind, name string) *syncstatus.ObjectStatus {
	for _, o := range s.GetObjects() {
		if o.GetId().GetKind() == kind && o.GetId().GetName() == name {
			return o
		}
	}
	return nil
}

// Summary is a status in a few lines.
func Summary(s *syncstatus.ProjectStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s wanted %.8s applied %.8s: %s\n", s.GetState(), s.GetRef(), s.GetWantedCommit(), s.GetAppliedCommit(), s.GetMessage())
	for _, e := range s.GetErrors() {
		fmt.Fprintf(&b, "  %s:%d: %s\n", e.GetPath(), e.GetLine(), e.GetMessage())
	}
	for i, o := range s.GetObjects() {
		if i == 20 {
			fmt.Fprintf(&b, "  and %d more\n", len(s.GetObjects())-i)
			break
		}
		fmt.Fprintf(&b, "  %s %s/%s %s %s %s (%s:%d)\n", o.GetId().GetKind(), o.GetId().GetNamespace(), o.GetId().GetName(),
			o.GetAction(), o.GetHealth(), o.GetMessage(), o.GetSourcePath(), o.GetSourceLine())
	}
	return b.String()
}

// ConfigMap returns a ConfigMap of the fixture's namespace, or fails the test.
func (f *Fixture) ConfigMap(name string) *corev1.ConfigMap {
	f.T.Helper()
	cm, err := f.Kube.CoreV1().ConfigMaps(f.Name).Get(f.T.Context(), name, metav1.GetOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	return cm
}

// WaitConfigMap waits until a ConfigMap has a value at "key".
func (f *Fixture) WaitConfigMap(name, value string) *corev1.ConfigMap {
	f.T.Helper()
	var found *corev1.ConfigMap
	f.Eventually(func() error {
		cm, err := f.Kube.CoreV1().ConfigMaps(f.Name).Get(f.T.Context(), name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("get ConfigMap: %w", err)
		}
		if cm.Data["key"] != value {
			return fmt.Errorf("ConfigMap %s has %q at key, want %q", name, cm.Data["key"], value)
		}
		found = cm
		return nil
	})
	return found
}

// ExpectGone fails the test if the fixture's namespace has the ConfigMap.
func (f *Fixture) ExpectGone(name string) {
	f.T.Helper()
	_, err := f.Kube.CoreV1().ConfigMaps(f.Name).Get(f.T.Context(), name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		f.T.Errorf("ConfigMap %s is still there (error %v)", name, err)
	}
}

// ConfigMap is a manifest without a namespace.
func ConfigMap(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  key: \"" + value + "\"\n"
}

// ConfigMapVersions maps the names of the ConfigMaps in the fixture's namespace to
// their resource versions.
func (f *Fixture) ConfigMapVersions() map[string]string {
	f.T.Helper()
	list, err := f.Kube.CoreV1().ConfigMaps(f.Name).List(f.T.Context(), metav1.ListOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	all := map[string]string{}
	for i := range list.Items {
		if list.Items[i].Name != "kube-root-ca.crt" { // Kubernetes makes it
			all[list.Items[i].Name] = list.Items[i].ResourceVersion
		}
	}
	return all
}
