package celhealth_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/gitops/celhealth"
)

func object(tb testing.TB, doc string) *unstructured.Unstructured {
	tb.Helper()
	u := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSON([]byte(doc))
	require.NoError(tb, err)
	require.NoError(tb, u.UnmarshalJSON(data))
	return u
}

func certificate(conditions string) string {
	return "{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: c, generation: 2}, spec: {replicas: 2}" + conditions + "}"
}

var ready = celhealth.Check{
	Group: "cert-manager.io", Kind: "Certificate",
	Failed:     `status.conditions.exists(c, c.type == "Ready" && c.status == "False" && c.reason == "Failed")`,
	InProgress: `status.observedGeneration < metadata.generation`,
	Current:    `status.conditions.exists(c, c.type == "Ready" && c.status == "True")`,
}

func TestRules_FirstThatIsTrueDecides(t *testing.T) {
	rules, err := celhealth.New([]celhealth.Check{ready})
	require.NoError(t, err)
	for _, row := range []struct {
		name, status string
		want         gitops.Health
		message      string
	}{
		{"nothing is known yet", "", gitops.HealthInProgress, "in progress until its health check holds: " + ready.Current},
		{"it is ready", `, status: {observedGeneration: 2, conditions: [{type: Ready, status: "True"}]}`, gitops.HealthCurrent, ""},
		{"it was ready before it was changed", `, status: {observedGeneration: 1, conditions: [{type: Ready, status: "True"}]}`,
			gitops.HealthInProgress, "in progress, because of its health check: " + ready.InProgress},
		{"a field that another expression needs is missing", `, status: {conditions: [{type: Ready, status: "True"}]}`, gitops.HealthCurrent, ""},
		{"it failed", `, status: {observedGeneration: 1, conditions: [{type: Ready, status: "False", reason: Failed}]}`,
			gitops.HealthFailed, "failed, because of its health check: " + ready.Failed},
		{"the status is of another shape", `, status: {conditions: 7}`, gitops.HealthInProgress, "in progress until its health check holds: " + ready.Current},
	} {
		t.Run(row.name, func(t *testing.T) {
			health, message, ok := rules.Judge(object(t, certificate(row.status)))
			require.True(t, ok)
			require.Equal(t, row.want, health)
			require.Equal(t, row.message, message)
		})
	}
	_, _, ok := rules.Judge(object(t, "{apiVersion: example.com/v1, kind: Certificate, metadata: {name: c}}"))
	require.False(t, ok, "of another group")
}

func TestRules_SeeAllPartsAndExtensions(t *testing.T) {
	for _, expression := range []string{
		`apiVersion == "cert-manager.io/v1" && kind == "Certificate" && metadata.name == "c"`,
		`self.spec.replicas == 2 && data == {}`,
		`status.?phase.orValue("none") == "none"`,
		`math.greatest(spec.replicas, 1) == 2 && "a,b".split(",").size() == 2 && sets.contains([1, 2], [1])`,
		`dyn(true)`,
	} {
		rules, err := celhealth.New([]celhealth.Check{{Group: "cert-manager.io", Kind: "Certificate", Current: expression}})
		require.NoError(t, err, expression)
		health, _, _ := rules.Judge(object(t, certificate("")))
		require.Equal(t, gitops.HealthCurrent, health, expression)
	}
}

func TestRules_ExpressionThatCostsTooMuchIsNotTrue(t *testing.T) {
	list := "[" + strings.TrimSuffix(strings.Repeat("1,", 200), ",") + "]"
	expression := fmt.Sprintf("%[1]s.all(a, %[1]s.all(b, %[1]s.all(c, a == b && b == c)))", list)
	rules, err := celhealth.New([]celhealth.Check{{Group: "cert-manager.io", Kind: "Certificate", Current: expression}})
	require.NoError(t, err)
	health, _, ok := rules.Judge(object(t, certificate("")))
	require.True(t, ok)
	require.Equal(t, gitops.HealthInProgress, health)
}

func TestNew_MistakeNamesTheCheckAndTheExpression(t *testing.T) {
	for _, row := range []struct {
		name  string
		check celhealth.Check
		field string
		want  string
	}{
		{"it does not parse", celhealth.Check{Kind: "A", Current: "status.ready =="}, "current", `health_checks[1].current: "status.ready ==": `},
		{"it names what there is not", celhealth.Check{Kind: "A", Failed: "statsu.failed", Current: "true"}, "failed", "undeclared reference to 'statsu'"},
		{"it is no truth value", celhealth.Check{Kind: "A", InProgress: `"text"`, Current: "true"}, "in_progress", "must be true or false, not string"},
		{"nothing is ever healthy", celhealth.Check{Kind: "A"}, "current", "an expression is needed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := celhealth.New([]celhealth.Check{ready, row.check})
			var mistake *celhealth.Error
			require.ErrorAs(t, err, &mistake)
			require.Equal(t, 1, mistake.Index)
			require.Equal(t, row.field, mistake.Field)
			require.ErrorContains(t, err, row.want)
		})
	}
}

func BenchmarkRules_Judge(b *testing.B) {
	rules, err := celhealth.New([]celhealth.Check{ready})
	require.NoError(b, err)
	u := object(b, certificate(`, status: {observedGeneration: 2, conditions: [{type: Issuing, status: "False"}, {type: Ready, status: "True"}]}`))
	for b.Loop() {
		rules.Judge(u)
	}
}
