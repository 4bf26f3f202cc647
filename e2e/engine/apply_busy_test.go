package engine_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
)

// squeeze has the API server refuse all but a few requests at a time of the user of
// the agent's name, whom it returns.
func (a *agent) squeeze() *rest.Config {
	a.t.Helper()
	_, err := a.client.RbacV1().ClusterRoleBindings().Create(a.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: a.namespace}},
	}, metav1.CreateOptions{})
	require.NoError(a.t, err)
	one, none := int32(1), int32(0)
	flow := a.client.FlowcontrolV1()
	_, err = flow.PriorityLevelConfigurations().Create(a.t.Context(), &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &one, LendablePercent: &none, BorrowingLimitPercent: &none,
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}, metav1.CreateOptions{})
	require.NoError(a.t, err)
	_, err = flow.FlowSchemas().Create(a.t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: a.namespace},
			MatchingPrecedence:         100,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: a.namespace}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
					Verbs: []string{"patch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, Namespaces: []string{"*"},
				}},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(a.t, err)
	testkit.Eventually(a.t, func() error {
		schema, err := flow.FlowSchemas().Get(a.t.Context(), a.namespace, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range schema.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling && c.Status == flowcontrolv1.ConditionFalse {
				return nil
			}
		}
		return errNotSo
	})
	rc := rest.CopyConfig(server)
	rc.Impersonate = rest.ImpersonationConfig{UserName: a.namespace}
	// The API server tells who asks by the token before it looks at whom it plays; the
	// flow goes by the latter.
	return rc
}

func TestRun_BusyAPIServerIsWaitedForAndNothingFails(t *testing.T) {
	a := newAgent(t)
	a.stop()
	rc := a.squeeze()
	var refused atomic.Int64
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && resp.StatusCode == http.StatusTooManyRequests {
				refused.Add(1)
			}
			return resp, err
		})
	})
	a.start(rc)
	const n = 300
	l := &troubleLog{log: newLog()}
	result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, docs("cm", "1", n)...), l)
	require.NoError(t, err)
	require.Zero(t, result.Failed)
	require.Len(t, a.inventory(), n)
	t.Logf("%d of %d requests were refused", refused.Load(), a.requests.writes.Load())
	require.Positive(t, refused.Load(), "this API server is not busy")
	require.Less(t, refused.Load(), int64(n), "it backs off")
	require.Contains(t, strings.Join(l.said, "\n"), "the API server is busy")
}

// troubleLog is a log that wants to hear of trouble.
type troubleLog struct {
	*log
	mu   sync.Mutex
	said []string
}

func (l *troubleLog) Trouble(message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, message)
}
