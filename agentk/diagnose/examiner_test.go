package diagnose

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/gitops"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// apiServer answers what an examination asks. What it really answers is seen in e2e.
type apiServer struct {
	*httptest.Server
	// may says what is allowed, for "verb resource.group namespace name".
	may func(string) bool
	// lease; nil: there is none. stale is a part of the API that is away.
	lease *coordinationv1.LeaseSpec
	stale bool
	// hung, unless nil, is called when parts of the API are asked for, and nothing is answered.
	hung func()

	mu    sync.Mutex
	asked []string
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	write := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	switch r.URL.Path {
	case "/version":
		write(map[string]string{"gitVersion": "v1.34.4"})
	case "/api":
		write(metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
	case "/apis":
		if s.hung != nil {
			s.hung()
			<-r.Context().Done()
			return
		}
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		if s.stale {
			gv := metav1.GroupVersionForDiscovery{GroupVersion: "metrics.k8s.io/v1beta1", Version: "v1beta1"}
			list.Groups = []metav1.APIGroup{{Name: "metrics.k8s.io", Versions: []metav1.GroupVersionForDiscovery{gv}, PreferredVersion: gv}}
		}
		write(list)
	case "/api/v1":
		write(metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "v1"})
	case "/apis/authentication.k8s.io/v1/selfsubjectreviews":
		write(authenticationv1.SelfSubjectReview{TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectReview", APIVersion: "authentication.k8s.io/v1"}, Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: "ada"}}})
	case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
		body, _ := io.ReadAll(r.Body)
		var review authorizationv1.SelfSubjectAccessReview
		gvk := authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview")
		if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, &gvk, &review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.APIVersion, review.Kind = gvk.ToAPIVersionAndKind()
		a := review.Spec.ResourceAttributes
		resource := a.Resource
		if a.Subresource != "" {
			resource += "/" + a.Subresource
		}
		question := fmt.Sprintf("%s %s.%s %s %s", a.Verb, resource, a.Group, a.Namespace, a.Name)
		s.mu.Lock()
		s.asked = append(s.asked, question)
		s.mu.Unlock()
		review.Status.Allowed = s.may(question)
		write(review)
	case "/apis/coordination.k8s.io/v1/namespaces/own/leases/agentk-7":
		if s.lease == nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			missing := apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, "agentk-7").Status()
			missing.Kind, missing.APIVersion = "Status", "v1"
			write(missing)
			return
		}
		write(coordinationv1.Lease{TypeMeta: metav1.TypeMeta{Kind: "Lease", APIVersion: "coordination.k8s.io/v1"}, Spec: *s.lease})
	default:
		http.Error(w, "not here", http.StatusServiceUnavailable)
	}
}

// kinds are served as a test says.
type kinds map[string]*meta.RESTMapping

func (k kinds) KindMapping(_ context.Context, gk schema.GroupKind) (*meta.RESTMapping, error) {
	if m := k[gk.String()]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%w: %s", gitops.ErrNotServed, gk)
}

var someKinds = kinds{
	"Secret":    {Resource: schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, Scope: meta.RESTScopeNamespace},
	"Namespace": {Resource: schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, Scope: meta.RESTScopeRoot},
}

func start(t *testing.T) (*apiServer, *Examiner) {
	t.Helper()
	s := &apiServer{may: func(string) bool { return true }}
	s.Server = httptest.NewServer(s)
	e, err := New(Config{
		RESTConfig: &rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{}}, Namespace: "own", Identity: "me",
		Clock: clocktesting.NewFakePassiveClock(epoch),
	}, someKinds)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s, e
}

func examine(t *testing.T, e *Examiner, used ...*agentrpc.UsedKind) *agentrpc.DiagnoseResponse {
	t.Helper()
	found := &agentrpc.DiagnoseResponse{}
	e.Examine(t.Context(), 7, used, found)
	return found
}

func TestExamine_WhoMayDoEverythingIsAskedOnce(t *testing.T) {
	s, e := start(t)
	s.lease = &coordinationv1.LeaseSpec{
		HolderIdentity: ptr.To("me"), LeaseDurationSeconds: ptr.To(int32(15)), RenewTime: &metav1.MicroTime{Time: epoch.Add(-2 * time.Second)},
	}
	found := examine(t, e, &agentrpc.UsedKind{Kind: "Secret", Namespaces: []string{"web"}})
	require.Equal(t, "v1.34.4", found.GetApiServer().GetVersion())
	require.Empty(t, found.GetApiServer().GetError())
	require.Empty(t, found.GetApiServer().GetFailedApis())
	require.Equal(t, "own/agentk-7", found.GetLeadership().GetLease())
	require.True(t, found.GetLeadership().GetSelf())
	require.False(t, found.GetLeadership().GetExpired())
	require.Equal(t, "ada", found.GetPermissions().GetUser())
	require.Empty(t, found.GetPermissions().GetMissing())
	require.EqualValues(t, 8+6, found.GetPermissions().GetChecked())
	require.Equal(t, []string{"* *.*  "}, s.asked)
}

func TestExamine_NamesWhatIsMissing(t *testing.T) {
	s, e := start(t)
	denied := map[string]bool{
		"* *.*  ": true,
		// In no namespace at all, and in one of two.
		"list secrets.  ": true, "watch secrets.  ": true, "patch secrets.  ": true, "patch secrets. web ": true,
		"create namespaces.  ":                                               true,
		"update leases.coordination.k8s.io own ":                             true,
		"impersonate groups.  gitlab:user":                                   true,
		"impersonate userextras/agent.gitlab.com/id.authentication.k8s.io  ": true,
	}
	s.may = func(question string) bool { return !denied[question] }
	e.Configure(&agentcfg.ConfigurationFile{UserAccess: &agentcfg.UserAccess{
		AccessAs: &agentcfg.UserAccessAs{As: &agentcfg.UserAccessAs_User{User: &agentcfg.AccessAsUser{}}},
	}})
	p := examine(t, e,
		&agentrpc.UsedKind{Kind: "Secret", Namespaces: []string{"shop", "web"}}, &agentrpc.UsedKind{Kind: "Namespace"},
		&agentrpc.UsedKind{Group: "example.com", Kind: "Gone"}).GetPermissions()
	require.Empty(t, p.GetError())
	var got []string
	for _, m := range p.GetMissing() {
		got = append(got, fmt.Sprintf("%v %s.%s %q", m.GetVerbs(), m.GetResource(), m.GetGroup(), m.GetNamespace()))
		require.NotEmpty(t, m.GetPurpose())
	}
	require.Equal(t, []string{
		`[impersonate] groups. ""`,
		`[create] namespaces. ""`,
		`[list watch] secrets. ""`,
		`[patch] secrets. "web"`,
		`[impersonate] userextras/agent.gitlab.com/id.authentication.k8s.io ""`,
		`[update] leases.coordination.k8s.io "own"`,
	}, got)
}

func TestExamine_SaysWhoDoesNotLead(t *testing.T) {
	s, e := start(t)
	require.Contains(t, examine(t, e).GetLeadership().GetError(), "not found")
	s.lease = &coordinationv1.LeaseSpec{
		HolderIdentity: ptr.To("another"), LeaseDurationSeconds: ptr.To(int32(15)), RenewTime: &metav1.MicroTime{Time: epoch.Add(-time.Minute)},
	}
	l := examine(t, e).GetLeadership()
	require.Equal(t, "another", l.GetHolder())
	require.False(t, l.GetSelf())
	require.True(t, l.GetExpired())
	require.Equal(t, epoch.Add(-time.Minute), l.GetRenewedAt().AsTime())
	s.lease = &coordinationv1.LeaseSpec{}
	l = examine(t, e).GetLeadership()
	require.Empty(t, l.GetHolder())
	require.False(t, l.GetSelf(), "nobody is not this one")
}

func TestExamine_NamesPartsOfTheAPIThatAreAway(t *testing.T) {
	s, e := start(t)
	s.stale = true
	failed := examine(t, e).GetApiServer().GetFailedApis()
	require.Len(t, failed, 1)
	require.Equal(t, "metrics.k8s.io/v1beta1", failed[0].GetGroupVersion())
	require.NotEmpty(t, failed[0].GetError())
}

func TestExamine_EndsWithItsTime(t *testing.T) {
	s, e := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.hung = cancel
	found := &agentrpc.DiagnoseResponse{}
	e.Examine(ctx, 7, nil, found)
	require.Contains(t, found.GetApiServer().GetFailedApis()[0].GetError(), "context canceled", "it is not waited for")
}

func TestExamine_AnAPIServerThatIsAwayIsAnAnswer(t *testing.T) {
	s, e := start(t)
	s.Close()
	found := examine(t, e)
	require.Contains(t, found.GetApiServer().GetError(), "connection refused")
	require.Equal(t, errAway.Error(), found.GetLeadership().GetError())
	require.Equal(t, errAway.Error(), found.GetPermissions().GetError())
}

func TestExamine_OneAtATime(t *testing.T) {
	_, e := start(t)
	e.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	found := &agentrpc.DiagnoseResponse{}
	e.Examine(ctx, 7, nil, found)
	require.Equal(t, errBusy.Error(), found.GetApiServer().GetError())
	<-e.turn
	require.Empty(t, examine(t, e).GetApiServer().GetError())
}

func TestExamine_WhatCannotBeAskedIsNotMissing(t *testing.T) {
	s, e := start(t)
	many := make([]*agentrpc.UsedKind, maxKinds+1)
	for i := range many {
		many[i] = &agentrpc.UsedKind{Group: "example.com", Kind: fmt.Sprint("Gone", i)}
	}
	s.may = func(question string) bool { return question != "* *.*  " }
	p := examine(t, e, many...).GetPermissions()
	require.Equal(t, "of 501 kinds, 500 were looked at", p.GetError())
	require.Empty(t, p.GetMissing())
}

func TestImpersonation_IsWhatAccessAsAsksFor(t *testing.T) {
	as := func(file *agentcfg.ConfigurationFile) []string {
		var got []string
		for _, n := range impersonation(file) {
			require.Equal(t, "impersonate", n.verb)
			got = append(got, fmt.Sprintf("%s.%s %s %s", n.path(), n.group, n.namespace, n.name))
		}
		return got
	}
	jobs := func(access *agentcfg.CiAccessAs) *agentcfg.ConfigurationFile {
		return &agentcfg.ConfigurationFile{CiAccess: &agentcfg.CiAccess{
			Projects: []*agentcfg.CiAccessProject{{Id: "a", AccessAs: access}, {Id: "b", AccessAs: access}},
			Groups:   []*agentcfg.CiAccessGroup{{Id: "c", AccessAs: access}},
		}}
	}
	identity := func(name string) *agentcfg.CiAccessAs {
		return &agentcfg.CiAccessAs{As: &agentcfg.CiAccessAs_Impersonate{Impersonate: &agentcfg.AccessAsImpersonate{
			Username: name, Groups: []string{"g"}, Uid: "u", Extra: []*agentcfg.ExtraKeyVal{{Key: "k", Val: []string{"v"}}},
		}}}
	}
	require.Empty(t, as(nil))
	require.Empty(t, as(jobs(nil)), "the agent itself is the default")
	require.Empty(t, as(jobs(&agentcfg.CiAccessAs{As: &agentcfg.CiAccessAs_Agent{Agent: &agentcfg.AccessAsAgent{}}})))
	require.Len(t, as(jobs(&agentcfg.CiAccessAs{As: &agentcfg.CiAccessAs_CiJob{CiJob: &agentcfg.AccessAsCiJob{}}})), 2+8, "each once")
	require.Equal(t, []string{
		"users.  deployer", "groups.  g", "uids.authentication.k8s.io  u", "userextras/k.authentication.k8s.io  v",
	}, as(jobs(identity("deployer"))))
	require.Equal(t, "serviceaccounts. ci deployer", as(jobs(identity("system:serviceaccount:ci:deployer")))[0])
}
