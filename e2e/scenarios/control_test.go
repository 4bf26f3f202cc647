package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

// suspended is a check for a project that Person has suspended, at a wanted commit.
func suspended(commit string) func(*syncstatus.ProjectStatus) error {
	return func(s *syncstatus.ProjectStatus) error {
		if err := harness.Is(syncstatus.State_STATE_SUSPENDED, commit)(s); err != nil {
			return err
		}
		if s.GetSuspension().GetBy() != harness.Person || !s.GetSuspension().GetAt().IsValid() {
			return fmt.Errorf("suspension is %v", s.GetSuspension())
		}
		return nil
	}
}

// expectRefused fails the test unless err is a refusal that says so.
func expectRefused(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %s: …%s…", err, code, text)
	}
}

func TestSuspend_NothingIsTouchedUntilResume(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	controls := f.Controls()
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	first := f.Manifests.Push("Create")
	f.WaitSynced(first)
	if err := controls.Suspend(); err != nil {
		t.Fatal(err)
	}
	since := f.WaitStatus(suspended(first)).GetSuspension().GetAt().AsTime()
	changes := f.Changes()

	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.Manifests.Git("rm", "--quiet", "b.yaml")
	second := f.Manifests.Push("Change and delete")
	f.WaitStatus(suspended(second))
	patch := []byte(`{"data":{"key":"drift"}}`)
	if _, err := f.Kube.CoreV1().ConfigMaps(f.Name).Patch(t.Context(), "b", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	// The agent has the set by now: it answers a command that came after it.
	expectRefused(t, controls.Sync(), codes.FailedPrecondition, "suspended by "+harness.Person)

	f.Agentk.Kill()
	f.Start(f.Agentk)
	f.Eventually(func() error {
		if err := controls.Sync(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "suspended by") {
			return fmt.Errorf("after the restart, the agent answers %w", err)
		}
		return nil
	})
	if at := f.WaitStatus(suspended(second)).GetSuspension().GetAt().AsTime(); !at.Equal(since) {
		t.Errorf("suspended since %s, after a restart since %s", since, at)
	}
	if got := changes(); len(got) != 1 || got["b"] != 1 {
		t.Errorf("writes are %v, want the foreign one to b alone", got)
	}

	if err := controls.Resume(); err != nil {
		t.Fatal(err)
	}
	if s := f.WaitSynced(second); s.GetSuspension() != nil {
		t.Errorf("still suspended: %v", s.GetSuspension())
	}
	f.WaitConfigMap("a", "2")
	f.ExpectGone("b")
}

func TestSuspend_ByTheConfiguration(t *testing.T) {
	t.Parallel()
	f := env.New(t, "suspend: true")
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	s := f.WaitStatus(harness.Is(syncstatus.State_STATE_SUSPENDED, commit))
	if by := s.GetSuspension().GetBy(); by != "the agent's configuration" {
		t.Errorf("suspended by %q", by)
	}
	expectRefused(t, f.Controls().Resume(), codes.FailedPrecondition, "remove suspend there")
	f.ExpectGone("a")
	f.Configure("default_namespace: " + f.Name)
	f.WaitSynced(commit)
}

func TestSyncNow_WaitsForNoPoll(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	kas := f.NewKas(time.Hour)
	controls := f.ControlsAt(kas.APIAddress)
	expectRefused(t, controls.Sync(), codes.Unavailable, "not connected")
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "0"))
	commit := f.Manifests.Push("Create")
	f.Agentk = f.NewAgentkOf(kas.AgentAddress, "agentk")
	f.Start(f.Agentk)
	f.WaitSynced(commit)

	for i := range 3 {
		value := fmt.Sprint(i + 1)
		f.Manifests.Write("a.yaml", harness.ConfigMap("a", value))
		commit := f.Manifests.Push("Change")
		if err := controls.Sync(); err != nil {
			t.Fatal(err)
		}
		f.WaitConfigMap("a", value)
		f.WaitSynced(commit)
	}
}

func TestControls_WithoutAnAgent(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	controls := f.Controls()
	expectRefused(t, controls.Approve(strings.Repeat("a", 40)), codes.FailedPrecondition, "no deletion waits for an approval")
	path := f.Manifests.Path
	f.Manifests.Path = f.Config.Path
	expectRefused(t, controls.Sync(), codes.NotFound, "does not follow")
	f.Manifests.Path = path
	f.Agentk.Kill()
	f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if s.GetState() != syncstatus.State_STATE_OFFLINE {
			return errors.New("not offline yet")
		}
		return nil
	})
	expectRefused(t, controls.Sync(), codes.Unavailable, "not connected")
	_, err := controls.Diff("")
	expectRefused(t, err, codes.Unavailable, "not connected")
}

func TestPruneGuard_HoldsUntilApproved(t *testing.T) {
	t.Parallel()
	const files, deleted = 15, 12
	f := env.New(t)
	for i := range files {
		name := fmt.Sprintf("cm-%02d", i)
		f.Manifests.Write(name+".yaml", harness.ConfigMap(name, "1"))
	}
	first := f.Manifests.Push("Create")
	f.WaitSynced(first)
	for i := range deleted {
		f.Manifests.Git("rm", "--quiet", fmt.Sprintf("cm-%02d.yaml", i))
	}
	f.Manifests.Write("new.yaml", harness.ConfigMap("new", "1"))
	second := f.Manifests.Push("Delete most")
	held := func(s *syncstatus.ProjectStatus) error {
		if err := harness.Is(syncstatus.State_STATE_PARTIAL, second)(s); err != nil {
			return err
		}
		if h := s.GetHeldPrune(); h.GetCommitId() != second || h.GetTotal() != deleted || h.GetReason() == "" {
			return fmt.Errorf("held prune is %v", h)
		}
		return nil
	}
	s := f.WaitStatus(held)
	var names []string
	for _, id := range s.GetHeldPrune().GetObjects() {
		names = append(names, id.GetName())
	}
	if !slices.IsSorted(names) || len(names) != deleted || names[0] != "cm-00" || names[deleted-1] != "cm-11" {
		t.Errorf("held objects are %v", names)
	}
	f.WaitConfigMap("new", "1")
	f.ConfigMap("cm-00")

	controls := f.Controls()
	expectRefused(t, controls.Approve(first), codes.FailedPrecondition, "not those of "+first)
	if err := controls.Sync(); err != nil {
		t.Fatal(err)
	}
	f.WaitStatus(held)
	f.ConfigMap("cm-00")
	if err := controls.Approve(second); err != nil {
		t.Fatal(err)
	}
	if s := f.WaitSynced(second); s.GetHeldPrune() != nil {
		t.Errorf("still held: %v", s.GetHeldPrune())
	}
	for i := range deleted {
		f.ExpectGone(fmt.Sprintf("cm-%02d", i))
	}
}

func TestDiff_TellsAndTouchesNothing(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	secret := func(password string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  user: admin\n  password: " + password + "\n"
	}
	group := f.Name + ".example.com"
	f.Manifests.Write("changed.yaml", harness.ConfigMap("changed", "1"))
	f.Manifests.Write("same.yaml", harness.ConfigMap("same", "1"))
	f.Manifests.Write("left.yaml", harness.ConfigMap("left", "1"))
	f.Manifests.Write("secret.yaml", secret("hunter2hunter2"))
	f.WaitSynced(f.Manifests.Push("Create"))

	f.Manifests.Git("checkout", "--quiet", "-b", "feature")
	f.Manifests.Write("changed.yaml", harness.ConfigMap("changed", "2"))
	f.Manifests.Git("rm", "--quiet", "left.yaml")
	f.Manifests.Write("new.yaml", harness.ConfigMap("new", "1"))
	f.Manifests.Write("bad.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: UPPER\n")
	f.Manifests.Write("secret.yaml", secret("swordfish99"))
	f.Manifests.Write("crd.yaml", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: widgets."+group+
		"\nspec:\n  group: "+group+"\n  scope: Namespaced\n  names: {kind: Widget, listKind: WidgetList, plural: widgets, singular: widget}\n"+
		"  versions:\n  - name: v1\n    served: true\n    storage: true\n    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}\n")
	f.Manifests.Write("widget.yaml", "apiVersion: "+group+"/v1\nkind: Widget\nmetadata:\n  name: w\n")
	feature := f.Manifests.Push("Feature")
	before, secrets := f.ConfigMapVersions(), secretVersion(f)

	controls := f.Controls()
	diff, err := controls.Diff("feature")
	if err != nil {
		t.Fatal(err)
	}
	if diff.Commit != feature {
		t.Errorf("the commit is %q", diff.Commit)
	}
	got := map[string]string{}
	for _, d := range diff.Differences {
		text := d.GetAction().String()
		for _, field := range d.GetFields() {
			text += fmt.Sprintf(" %s %s->%s", field.GetPath(), field.GetBefore(), field.GetAfter())
		}
		got[d.GetId().GetKind()+" "+d.GetId().GetName()] = text
	}
	for name, want := range map[string]string{
		"ConfigMap changed": `ACTION_CONFIGURED .data.key "1"->"2"`,
		"ConfigMap same":    "ACTION_UNCHANGED",
		"ConfigMap new":     "ACTION_CREATED",
		"ConfigMap left":    "ACTION_PRUNED",
		"ConfigMap UPPER":   "ACTION_FAILED",
		"Secret s":          `ACTION_CONFIGURED .data.password "(masked)"->"(masked, changed)"`,
		"Widget w":          "ACTION_CREATED",
		"CustomResourceDefinition widgets." + group: "ACTION_CREATED",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if text := fmt.Sprint(diff.Differences); strings.Contains(text, "swordfish") || strings.Contains(text, "c3dvcmRmaXNo") {
		t.Error("the diff shows a secret")
	}
	if d := diff.Differences[slices.IndexFunc(diff.Differences, func(d *syncstatus.Difference) bool { return d.GetId().GetName() == "changed" })]; d.GetSourcePath() != "changed.yaml" || d.GetSourceLine() != 1 {
		t.Errorf("changed comes from %s:%d", d.GetSourcePath(), d.GetSourceLine())
	}
	if after := f.ConfigMapVersions(); fmt.Sprint(after) != fmt.Sprint(before) || secretVersion(f) != secrets {
		t.Errorf("something was written: %v, before %v", after, before)
	}

	// What the project follows is not different from the cluster.
	diff, err = controls.Diff("")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diff.Differences {
		if d.GetAction() != syncstatus.Action_ACTION_UNCHANGED {
			t.Errorf("%v", d)
		}
	}
	_, err = controls.Diff("none")
	expectRefused(t, err, codes.FailedPrecondition, "the repository has no branch none")
}

// secretVersion is the resource version of Secret s.
func secretVersion(f *harness.Fixture) string {
	f.T.Helper()
	s, err := f.Kube.CoreV1().Secrets(f.Name).Get(f.T.Context(), "s", metav1.GetOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	return s.ResourceVersion
}

// BenchmarkSyncNow measures how long one changed manifest of 1,000 takes from the end of
// "git push", followed by a command to sync, until a watch of the API server shows it,
// while kas polls once an hour. Run it with
//
//	E2E_RACE=0 go test -run '^$' -bench SyncNow -benchtime 20x ./e2e/scenarios
func BenchmarkSyncNow(b *testing.B) {
	const files = 1000
	f := env.NewStopped(b)
	kas := f.NewKas(time.Hour)
	controls := f.ControlsAt(kas.APIAddress)
	for i := range files {
		name := fmt.Sprintf("cm-%04d", i)
		f.Manifests.Write("many/"+name+".yaml", harness.ConfigMap(name, "first"))
	}
	commit := f.Manifests.Push("Create many")
	f.Agentk = f.NewAgentkOf(kas.AgentAddress, "agentk")
	f.Start(f.Agentk)
	f.WaitSynced(commit)
	watch, err := f.Kube.CoreV1().ConfigMaps(f.Name).Watch(context.WithoutCancel(b.Context()), metav1.ListOptions{FieldSelector: "metadata.name=cm-0500"})
	if err != nil {
		b.Fatal(err)
	}
	defer watch.Stop()
	var after []time.Duration
	round := 0
	for b.Loop() {
		round++
		value := fmt.Sprintf("round %d", round)
		f.Manifests.Write("many/cm-0500.yaml", harness.ConfigMap("cm-0500", value))
		f.Manifests.Git("commit", "--quiet", "--all", "--message", value)
		f.Manifests.Git("push", "--quiet", "origin", "HEAD")
		pushed := time.Now()
		if err := controls.Sync(); err != nil {
			b.Fatal(err)
		}
		for event := range watch.ResultChan() {
			if cm, ok := event.Object.(*corev1.ConfigMap); ok && cm.Data["key"] == value {
				break
			}
		}
		after = append(after, time.Since(pushed))
	}
	report(b, "sync-now", after)
}
