package scenarios

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

// rival is a controller that wants another number of replicas, and never gives in.
const rival = "rival-scaler"

// startRival has the rival at work until the test ends.
func startRival(f *harness.Fixture, deployment string) {
	f.T.Helper()
	ctx, cancel := context.WithCancel(f.T.Context())
	deployments := f.Kube.AppsV1().Deployments(f.Name)
	begin := func() (watch.Interface, error) {
		return deployments.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + deployment})
	}
	changes, err := begin()
	if err != nil {
		f.T.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		force := true
		for ; err == nil; changes, err = begin() { // a busy API server ends watches
			for event := range changes.ResultChan() {
				d, ok := event.Object.(*appsv1.Deployment)
				if !ok || *d.Spec.Replicas == 2 {
					continue
				}
				patch := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"` + deployment + `"},"spec":{"replicas":2}}`)
				_, err := deployments.Patch(ctx, deployment, types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: rival, Force: &force})
				if err != nil && ctx.Err() == nil {
					f.T.Errorf("the rival cannot scale: %v", err)
				}
			}
		}
		if ctx.Err() == nil {
			f.T.Errorf("the rival sees nothing: %v", err)
		}
	})
	f.T.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

const webDeployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
`

func TestContest_NamesTheRivalAndTheFieldToEverybody(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("web.yaml", webDeployment)
	f.Manifests.Write("other.yaml", harness.ConfigMap("other", "1"))
	commit := f.Manifests.Push("A deployment")
	f.WaitSynced(commit)
	startRival(f, "web")
	// It begins when anybody touches the object.
	if _, err := f.Kube.AppsV1().Deployments(f.Name).Patch(t.Context(), "web", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"touched":"yes"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}

	status := f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if err := harness.Is(syncstatus.State_STATE_PARTIAL, commit)(s); err != nil {
			return err
		}
		if c := harness.Object(s, "Deployment", "web").GetContest(); len(c.GetContenders()) == 0 || c.GetHeals() < 3 {
			return fmt.Errorf("contest is %v", c)
		}
		return nil
	})
	object := harness.Object(status, "Deployment", "web")
	contender := object.GetContest().GetContenders()[0]
	if contender.GetManager() != rival || len(contender.GetFields()) != 1 || contender.GetFields()[0] != ".spec.replicas" {
		t.Errorf("the contest is %v", object.GetContest())
	}
	for _, want := range []string{"Deployment " + f.Name + "/web", rival, ".spec.replicas"} {
		if !strings.Contains(status.GetMessage(), want) {
			t.Errorf("the message does not say %q: %s", want, status.GetMessage())
		}
	}
	for _, want := range []string{rival, "agentk", ".spec.replicas"} {
		if !strings.Contains(object.GetMessage(), want) {
			t.Errorf("the object's message does not say %q: %s", want, object.GetMessage())
		}
	}
	if other := harness.Object(status, "ConfigMap", "other"); other.GetHealth() != syncstatus.Health_HEALTH_CURRENT || other.GetContest() != nil {
		t.Errorf("the other object is %v", other)
	}

	browser := f.NewBrowser()
	path := "/" + f.Config.Path + "/-/cluster_agents/" + f.Name
	page := signIn(t, f, browser, path).Text()
	_, table := kasctl(f, "", "status", f.Config.Path+":"+f.Name, "--objects")
	for _, want := range []string{rival, ".spec.replicas"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q: %s", want, page)
		}
		if !strings.Contains(table, want) {
			t.Errorf("kasctl does not say %q: %s", want, table)
		}
	}
	expectKasctl(f, 3, "somebody else keeps changing 1 object", "status", f.Config.Path+":"+f.Name, "--wait", "--timeout", "1s")
}
