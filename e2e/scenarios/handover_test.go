package scenarios

import (
	"errors"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/gitops"
)

const movingDeployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: app
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: c, image: example.com/i}]}
`

var errNotYet = errors.New("not yet")

// moving is what moves from one project to another.
type moving struct {
	f *harness.Fixture
}

func (m moving) configMap() *corev1.ConfigMap {
	m.f.T.Helper()
	cm, err := m.f.Kube.CoreV1().ConfigMaps(m.f.Name).Get(m.f.T.Context(), "moved", metav1.GetOptions{})
	if err != nil {
		m.f.T.Fatal(err)
	}
	return cm
}

func (m moving) deployment() *appsv1.Deployment {
	m.f.T.Helper()
	d, err := m.f.Kube.AppsV1().Deployments(m.f.Name).Get(m.f.T.Context(), "app", metav1.GetOptions{})
	if err != nil {
		m.f.T.Fatal(err)
	}
	return d
}

func (m moving) uids() [2]types.UID {
	m.f.T.Helper()
	return [2]types.UID{m.configMap().UID, m.deployment().UID}
}

func TestHandover_ObjectMovesToAnotherProjectAndIsNeverDeleted(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		// restart has agentk away while both projects change.
		restart bool
	}{
		{"while the agent looks on", false},
		{"while the agent is away", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := env.New(t)
			other := f.NewRepo("other", "private")
			other.Write("stays.yaml", harness.ConfigMap("stays", "1"))
			commit := other.Push("First")
			f.ConfigureFile(twoProjects(f, "", "  - id: "+other.Path+"\n    default_namespace: "+f.Name+"\n"))
			f.Manifests.Write("moved.yaml", harness.ConfigMap("moved", "1"))
			f.Manifests.Write("app.yaml", movingDeployment)
			f.Manifests.Write("rest.yaml", harness.ConfigMap("rest", "1"))
			f.WaitSynced(f.Manifests.Push("Create"))
			f.WaitStatusOf(other.Path, harness.Is(syncstatus.State_STATE_SYNCED, commit))
			m := moving{f}
			before := m.uids()
			owner := m.configMap().Annotations[gitops.OwnerAnnotation]

			if row.restart {
				f.Agentk.Kill()
			}
			// The new project wants it first; for a while both do.
			other.Write("moved.yaml", harness.ConfigMap("moved", "2"))
			other.Write("app.yaml", movingDeployment)
			commit = other.Push("Take over")
			if !row.restart {
				f.WaitStatusOf(other.Path, func(s *syncstatus.ProjectStatus) error {
					for _, o := range s.GetObjects() {
						if o.GetId().GetName() == "moved" && o.GetAction() == syncstatus.Action_ACTION_SKIPPED {
							return contains(o.GetMessage(), owner)
						}
					}
					return fmt.Errorf("%w: nothing is refused", errNotYet)
				})
			}
			f.Manifests.Git("rm", "--quiet", "moved.yaml", "app.yaml")
			left := f.Manifests.Push("Let go")
			if row.restart {
				f.Start(f.Agentk)
			}
			f.WaitStatusOf(other.Path, harness.Is(syncstatus.State_STATE_SYNCED, commit))
			f.WaitSynced(left)
			f.WaitConfigMap("moved", "2")
			if after := m.uids(); after != before {
				t.Errorf("UIDs were %v and are %v: something was deleted", before, after)
			}
			if now := m.configMap().Annotations[gitops.OwnerAnnotation]; now == owner {
				t.Errorf("the ConfigMap still belongs to inventory %q", owner)
			}
			f.Eventually(func() error { // the old project forgets
				s, err := f.Status()
				if err != nil {
					return err
				}
				for _, o := range s.GetObjects() {
					if name := o.GetId().GetName(); name == "moved" || name == "app" {
						return fmt.Errorf("%w: the old project still lists %s as %s", errNotYet, name, o.GetAction())
					}
				}
				return nil
			})

			// It is the new one's now, and goes when it leaves that.
			other.Git("rm", "--quiet", "moved.yaml")
			f.WaitStatusOf(other.Path, harness.Is(syncstatus.State_STATE_SYNCED, other.Push("Delete")))
			f.ExpectGone("moved")
		})
	}
}
