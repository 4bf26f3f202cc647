package gitops_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// previewer is a process that can also be asked what would be.
type previewer struct {
	*fakeCluster
	// problems by name are what Preview returns.
	problems map[string]error
}

func (p previewer) Peek(ctx context.Context, id string) (*inventory.Inventory, error) {
	return inventory.Load(ctx, p.world, id)
}

func (p previewer) Preview(_ context.Context, a gitops.Apply) (before, after *unstructured.Unstructured, err error) {
	err = p.around("preview "+a.ID.Name, func() error {
		if err := p.problems[a.ID.Name]; err != nil {
			return err
		}
		if live, ok := p.Live(a.ID); ok {
			before = live.Object.Unstructured()
			before.SetResourceVersion(live.ResourceVersion)
			before.SetUID(live.UID)
		}
		after = &unstructured.Unstructured{}
		if err := after.UnmarshalJSON(a.JSON); err != nil {
			return err
		}
		after.SetGeneration(7)
		return nil
	})
	return before, after, err
}

// diff brings w to before and compares it with after.
func diff(t *testing.T, w *world, before, after []string, problems map[string]error) map[string]gitops.Difference {
	t.Helper()
	run(t, w.process(), project(), set(t, before...))
	version := w.version
	f := w.process()
	got, err := gitops.Diff(t.Context(), previewer{fakeCluster: f, problems: problems}, project(), set(t, after...))
	require.NoError(t, err)
	require.Equal(t, version, w.version, "something was written")
	byName := map[string]gitops.Difference{}
	for _, d := range got {
		byName[d.ID.Name] = d
	}
	require.Len(t, got, len(byName))
	return byName
}

func TestDiff_SaysWhatARunWouldDo(t *testing.T) {
	w := newWorld()
	f := previewer{fakeCluster: w.process()}
	run(t, w.process(), project(), set(t, cm("same", "1"), cm("changed", "1"), cm("left-b", "1"), cm("left-a", "1")))
	got, err := gitops.Diff(t.Context(), f, project(), set(t, cm("new", "1"), cm("changed", "2"), cm("same", "1")))
	require.NoError(t, err)
	var list []string
	for _, d := range got {
		list = append(list, fmt.Sprint(d.ID.Namespace, "/", d.ID.Name, " ", d.Action, " ", d.Position, d.Fields))
	}
	require.Equal(t, []string{
		fmt.Sprint("default/new ", gitops.ActionCreated, " f0.yaml:1 []"),
		fmt.Sprint("default/changed ", gitops.ActionConfigured, ` f1.yaml:1 [{.data.k "1" "2"}]`),
		fmt.Sprint("default/same ", gitops.ActionUnchanged, " f2.yaml:1 []"),
		fmt.Sprint("default/left-a ", gitops.ActionPruned, " ", manifests.Position{}, " []"),
		fmt.Sprint("default/left-b ", gitops.ActionPruned, " ", manifests.Position{}, " []"),
	}, list)
	require.NotContains(t, f.calls, "preview same", "what has not changed costs nothing")
}

func TestDiff_SecretsAreMasked(t *testing.T) {
	secret := func(values string) string {
		return `{apiVersion: v1, kind: Secret, metadata: {name: s, annotations: {kubectl.kubernetes.io/last-applied-configuration: "x` +
			values[2:4] + `"}}, data: ` + values + `}`
	}
	got := diff(t, newWorld(), []string{secret("{a: c2VjcmV0MQ==, b: c2FtZXNhbWU=, gone: Z29uZWdvbmU=}")},
		[]string{secret("{ a: c2VjcmV0Mg==, b: c2FtZXNhbWU=, new: bmV3bmV3bmV3}")}, nil)["s"]
	require.Equal(t, gitops.ActionConfigured, got.Action)
	require.Equal(t, []gitops.FieldDifference{
		{Path: ".data.a", Before: `"(masked)"`, After: `"(masked, changed)"`},
		{Path: ".data.gone", Before: `"(masked)"`},
		{Path: ".data.new", After: `"(masked)"`},
		{Path: `.metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"]`, Before: `"(masked)"`, After: `"(masked, changed)"`},
	}, got.Fields)

	got = diff(t, newWorld(), []string{secret("{a: c2VjcmV0MQ==}")},
		[]string{`{apiVersion: v1, kind: Secret, metadata: {name: s}, data: [c2VjcmV0MQ==], stringData: "hush"}`}, nil)["s"]
	require.NotContains(t, fmt.Sprint(got), "c2VjcmV0MQ==")
	require.NotContains(t, fmt.Sprint(got), "hush")

	got = diff(t, newWorld(), nil, []string{secret("{a: c2VjcmV0MQ==}")},
		map[string]error{"s": errors.New(`illegal base64 in "c2VjcmV0MQ=="`)})["s"]
	require.Equal(t, gitops.ActionFailed, got.Action)
	require.Equal(t, `illegal base64 in "(masked)"`, got.Message)
}

func TestDiff_FieldsOfAllShapes(t *testing.T) {
	before := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, labels: {a.b/c: one}}, status: {replicas: 1},
		spec: {replicas: 1, template: {spec: {containers: [{name: a, image: i1}, {name: b}]}}}}`
	after := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, labels: {a.b/c: two}}, status: {replicas: 3},
		spec: {paused: true, replicas: "1", template: {spec: {containers: [{name: a, image: i2}]}}}}`
	got := diff(t, newWorld(), []string{before}, []string{after}, nil)["d"]
	require.Equal(t, []gitops.FieldDifference{
		{Path: `.metadata.labels["a.b/c"]`, Before: `"one"`, After: `"two"`},
		{Path: ".spec.paused", After: "true"},
		{Path: ".spec.replicas", Before: "1", After: `"1"`},
		{Path: ".spec.template.spec.containers[0].image", Before: `"i1"`, After: `"i2"`},
		{Path: ".spec.template.spec.containers[1]", Before: `{"name":"b"}`},
	}, got.Fields)
}

func TestDiff_LongValuesAreShownWhereTheyDiffer(t *testing.T) {
	lines := strings.Repeat("ä line of text\\n", 2000)
	got := diff(t, newWorld(), []string{cm("a", "1"), cm("b", "x")}, []string{cm("b", "y"), `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: "1", l: "` + lines + `"}}`}, nil)
	require.Len(t, got["a"].Fields, 1)
	require.Less(t, len(got["a"].Fields[0].After), 10_000)

	got = diff(t, newWorld(), []string{`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {l: "` + lines + `first"}}`},
		[]string{`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {l: "` + lines + `second"}}`}, nil)
	require.Len(t, got["a"].Fields, 1)
	require.True(t, strings.HasSuffix(got["a"].Fields[0].Before, `first"`), got["a"].Fields[0].Before)
	require.True(t, strings.HasSuffix(got["a"].Fields[0].After, `second"`))
	require.Less(t, len(got["a"].Fields[0].After), 500)

	var many strings.Builder
	for i := range 200 {
		fmt.Fprintf(&many, "k%d: %q, ", i, strings.Repeat("x", 4000))
	}
	got = diff(t, newWorld(), []string{cm("a", "1")}, []string{`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {` + many.String() + `z: z}}`}, nil)
	require.Less(t, len(got["a"].Fields), 80)
	require.Contains(t, got["a"].Message, "more fields would change")
}

func TestDiff_WhatCannotBeCheckedIsSaid(t *testing.T) {
	crd := `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.example.com},
		spec: {group: example.com, names: {kind: Widget}}}`
	widget := `{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}`
	missing := &gitops.KindError{Kind: gitops.ErrNoNamespace, Err: errors.New(`namespaces "coming" not found`)}
	got := diff(t, newWorld(), nil, []string{
		crd, widget, `{apiVersion: v1, kind: Namespace, metadata: {name: coming}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: in, namespace: coming}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: out, namespace: m}}`,
		`{apiVersion: example.com/v1, kind: Gadget, metadata: {name: g}}`,
		cm("refused", "1"),
	}, map[string]error{"in": missing, "out": missing, "refused": errRefused})
	for _, row := range []struct {
		name, message string
		action        gitops.Action
	}{
		{"widgets.example.com", "", gitops.ActionCreated},
		{"w", "its kind only comes with this commit", gitops.ActionCreated},
		{"in", "its namespace only comes with this commit", gitops.ActionCreated},
		{"out", "not found", gitops.ActionFailed},
		{"g", "no matches for kind", gitops.ActionFailed},
		{"refused", "refused by an admission webhook", gitops.ActionFailed},
	} {
		require.Equal(t, row.action, got[row.name].Action, row.name)
		require.Contains(t, got[row.name].Message, row.message)
	}
}

func TestDiff_EndsWhenTheAPIServerIsAway(t *testing.T) {
	w := newWorld()
	f := previewer{fakeCluster: w.process(), problems: map[string]error{"a": gitops.ErrUnavailable}}
	_, err := gitops.Diff(t.Context(), f, project(), set(t, cm("a", "1"), cm("b", "1")))
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = gitops.Diff(ctx, previewer{fakeCluster: w.process()}, project(), set(t, cm("a", "1")))
	require.ErrorIs(t, err, context.Canceled)
}
