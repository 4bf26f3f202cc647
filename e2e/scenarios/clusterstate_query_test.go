package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// makeConfigMap makes one with labels in a namespace.
func makeConfigMap(f *harness.Fixture, namespace, name, value string, labels map[string]string) *corev1.ConfigMap {
	f.T.Helper()
	cm, err := f.Kube.CoreV1().ConfigMaps(namespace).Create(f.T.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"key": value},
	}, metav1.CreateOptions{})
	if err != nil {
		f.T.Fatal(err)
	}
	return cm
}

func TestClusterState_Selectors(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	mine := map[string]string{"of": f.Name}
	for _, name := range []string{"a", "b", "c"} {
		makeConfigMap(f, f.Name, name, "value of "+name, map[string]string{"of": f.Name, "name": name})
	}
	makeConfigMap(f, f.AgentNamespace, "a", "elsewhere", mine)
	state := f.ClusterState()
	for _, test := range []struct {
		name   string
		query  *clusterstate.Query
		want   []string
		refuse string
	}{
		{
			name:  "labels, in all namespaces, in order of namespace and name",
			query: &clusterstate.Query{LabelSelector: "of=" + f.Name},
			want:  []string{f.Name + "/a", f.Name + "/b", f.Name + "/c", f.AgentNamespace + "/a"},
		},
		{
			name:  "labels in a namespace",
			query: &clusterstate.Query{Namespace: f.Name, LabelSelector: "of=" + f.Name},
			want:  []string{f.Name + "/a", f.Name + "/b", f.Name + "/c"},
		},
		{
			name:  "a set of labels",
			query: &clusterstate.Query{LabelSelector: "of=" + f.Name + ",name in (a,c),name!=a"},
			want:  []string{f.Name + "/c"},
		},
		{
			name:  "a label that is not there",
			query: &clusterstate.Query{LabelSelector: "of=" + f.Name + ",!name"},
			want:  []string{f.Name + "-agent/a"},
		},
		{
			name:  "the name",
			query: &clusterstate.Query{FieldSelector: "metadata.name=b,metadata.namespace=" + f.Name},
			want:  []string{f.Name + "/b"},
		},
		{
			name:  "any other field",
			query: &clusterstate.Query{Namespace: f.Name, FieldSelector: "data.key=value of c"},
			want:  []string{f.Name + "/c"},
		},
		{
			name:  "a field of a table's objects",
			query: &clusterstate.Query{Namespace: f.Name, FieldSelector: "data.key!=value of c", LabelSelector: "of=" + f.Name, Shape: clusterstate.Shape_SHAPE_TABLE},
			want:  []string{f.Name + "/a", f.Name + "/b"},
		},
		{name: "nothing fits", query: &clusterstate.Query{LabelSelector: "of=nobody-" + f.Name}, want: []string{}},
		{name: "labels that are none", query: &clusterstate.Query{LabelSelector: "a in ("}, refuse: "label"},
		{name: "fields that are none", query: &clusterstate.Query{FieldSelector: "metadata.name"}, refuse: "field"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.query.Resource = core("configmaps")
			got, err := state.List(&clusterstate.ListRequest{Query: test.query})
			if test.refuse != "" {
				if err := isCode(err, codes.InvalidArgument, test.refuse); err != nil {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got.Names()); diff != "" {
				t.Errorf("the names differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClusterState_Pages(t *testing.T) {
	t.Parallel()
	const all, page = 25, 10
	f := env.New(t)
	want := make([]string, 0, all)
	for i := range all {
		name := fmt.Sprintf("cm-%02d", i)
		makeConfigMap(f, f.Name, name, name, map[string]string{"of": f.Name})
		want = append(want, f.Name+"/"+name)
	}
	state := f.ClusterState()
	request := &clusterstate.ListRequest{
		Query: &clusterstate.Query{Resource: core("configmaps"), LabelSelector: "of=" + f.Name}, Limit: page,
	}
	var got []string
	for left := all; left > 0; left -= page {
		answer, err := state.List(request)
		if err != nil {
			t.Fatal(err)
		}
		if n := uint64(max(0, left-page)); answer.Remaining != n || (answer.Continue == "") != (n == 0) {
			t.Errorf("after %d: %d are left and continue is %q", len(got), answer.Remaining, answer.Continue)
		}
		got = append(got, answer.Names()...)
		request.Continue = answer.Continue
		if len(got) == page { // what ended the page need not be there any more
			gone := want[page-1][len(f.Name)+1:]
			if err := f.Kube.CoreV1().ConfigMaps(f.Name).Delete(t.Context(), gone, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			f.Eventually(func() error {
				_, err := state.Get(&clusterstate.GetRequest{Resource: core("configmaps"), Namespace: f.Name, Name: gone})
				return isCode(err, codes.NotFound)
			})
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the pages together differ (-want +got):\n%s", diff)
	}
	request.Continue = "not a continue"
	_, err := state.List(request)
	if err := isCode(err, codes.InvalidArgument, "continue"); err != nil {
		t.Errorf("a continue that is none: %v", err)
	}
}

func TestClusterState_KindsThatAreMadeAndDeletedLater(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	group := f.Name + ".example.com"
	state := f.ClusterState()
	widgets := &clusterstate.Resource{Group: group, Resource: "widgets"}
	list := &clusterstate.ListRequest{Query: inNamespace(f, widgets, clusterstate.Shape_SHAPE_OBJECT)}
	_, err := state.List(list)
	if err := isCode(err, codes.NotFound, "widgets"); err != nil {
		t.Fatalf("a kind that is not there: %v", err)
	}
	apply(f, widgetTableCRD(group))
	kubectl(t, f, "wait", "--for=condition=Established", "crd/widgets."+group)
	apply(f, fmt.Sprintf(widgetsToPrint, f.Name, f.Name))
	f.Eventually(func() error {
		answer, err := state.List(list)
		if err == nil && !slices.Equal(answer.Names(), []string{f.Name + "/empty", f.Name + "/whole"}) {
			err = fmt.Errorf("there are %v", answer.Names())
		}
		return err
	})
	watch := state.Watch(list.GetQuery())
	watch.WaitTold(harness.ToldSynced)
	kubectl(t, f, "delete", "crd", "widgets."+group)
	if code := watch.WaitEnded(); code != codes.NotFound {
		t.Errorf("the watch of a kind that was deleted ended with %v", watch.Ended())
	}
	_, err = state.List(list)
	if err := isCode(err, codes.NotFound, "widgets"); err != nil {
		t.Errorf("a kind that was deleted: %v", err)
	}

	// And again, with another plural column: nothing of the old one is remembered.
	apply(f, widgetCRD(group))
	kubectl(t, f, "wait", "--for=condition=Established", "crd/widgets."+group)
	apply(f, fmt.Sprintf(widgetsToPrint, f.Name, f.Name))
	list.Query.Shape = clusterstate.Shape_SHAPE_TABLE
	f.Eventually(func() error {
		answer, err := state.List(list)
		if err != nil {
			return err
		}
		return sameTable(serverTable(f, widgets, f.Name), &answer)
	})
}

func TestClusterState_WhatAgentkMayNotList(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	account := f.NewAccount("limited",
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: verbs},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps", "namespaces"}, Verbs: verbs},
	)
	f.Agentk = f.NewAgentkWith("limited", func(cfg *stack.AgentkConfig) { cfg.Kubeconfig = account.Kubeconfig })
	f.Start(f.Agentk)
	state := f.ClusterState()
	makeConfigMap(f, f.Name, "a", "1", nil)
	if _, err := state.Get(&clusterstate.GetRequest{Resource: core("configmaps"), Namespace: f.Name, Name: "a"}); err != nil {
		t.Error(err)
	}
	services := inNamespace(f, core("services"), clusterstate.Shape_SHAPE_TABLE)
	list := &clusterstate.ListRequest{Query: services}
	_, err := state.List(list)
	if err := isCode(err, codes.PermissionDenied, "list", "services"); err != nil {
		t.Error(err)
	}
	if code := state.Watch(services).WaitEnded(); code != codes.PermissionDenied {
		t.Errorf("a watch of what agentk may not list ended with %s", code)
	}

	account.Grant("services", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"list", "watch"}})
	f.Eventually(func() error { _, err := state.List(list); return err })
	watch := state.Watch(services)
	watch.WaitTold(harness.ToldSynced)
	apply(f, "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n")
	watch.WaitTold("ADDED web")
}

func TestClusterState_OfAnAgentThatIsAway(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	state := f.ClusterState()
	makeConfigMap(f, f.Name, "a", "1", nil)
	get := &railsrpc.ClusterGetRequest{
		AgentId: f.Agent.ID, Request: &clusterstate.GetRequest{Resource: core("configmaps"), Namespace: f.Name, Name: "a"},
	}
	f.Eventually(func() error { // kas says so half a second before it is too late, which may be too late
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := state.Client.Get(short, get)
		return isCode(err, codes.Unavailable, fmt.Sprintf("agent %d", f.Agent.ID), "not connected")
	})

	// Who asks a little too early is answered all the same.
	answered := make(chan error, 1)
	long, cancel := context.WithTimeout(t.Context(), harness.CommandTimeout)
	defer cancel()
	go func() {
		_, err := state.Client.Get(long, get)
		answered <- err
	}()
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	if err := <-answered; err != nil {
		t.Errorf("asked before the agent was there: %v", err)
	}
}

func TestClusterState_OfAFleetOfWhichSomeAreAway(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	second, away := f.NewSibling(), f.NewSibling()
	second.Agentk = second.NewAgentk("agentk")
	second.Start(second.Agentk)
	makeConfigMap(f, f.Name, "a", "1", map[string]string{"of": f.Name})
	for _, agent := range []*harness.Fixture{f, second} {
		if _, err := agent.ClusterState().List(&clusterstate.ListRequest{Query: inNamespace(f, core("configmaps"), 0)}); err != nil {
			t.Fatal(err)
		}
	}
	request := &clusterstate.ListRequest{Query: &clusterstate.Query{Resource: core("configmaps"), LabelSelector: "of=" + f.Name}}

	names, ends := fleet(f, &railsrpc.ListFleetRequest{AgentIds: []int64{away.Agent.ID, f.Agent.ID, second.Agent.ID}, Request: request})
	for _, agent := range []*harness.Fixture{f, second} {
		if end := ends[agent.Agent.ID]; end.GetCode() != 0 || !slices.Equal(names[agent.Agent.ID], []string{f.Name + "/a"}) {
			t.Errorf("agent %d: %v and %v", agent.Agent.ID, names[agent.Agent.ID], end)
		}
	}
	if end := ends[away.Agent.ID]; codes.Code(end.GetCode()) != codes.Unavailable || contains(end.GetMessage(), "not connected") != nil {
		t.Errorf("the agent that is away: %v", end)
	}
	if len(ends) != 3 {
		t.Errorf("ends are %v", ends)
	}

	_, ends = fleet(f, &railsrpc.ListFleetRequest{ProjectId: f.Config.ID, Request: request})
	if len(ends) != 2 || ends[f.Agent.ID] == nil || ends[second.Agent.ID] == nil {
		t.Errorf("the connected agents of the project are %v", ends)
	}
}

// fleet asks many agents and returns the names that each told and how it ended. It
// fails the test where an agent ends twice, or says something afterwards.
func fleet(f *harness.Fixture, request *railsrpc.ListFleetRequest) (names map[int64][]string, ends map[int64]*railsrpc.FleetEnd) {
	f.T.Helper()
	ctx, cancel := context.WithTimeout(f.T.Context(), harness.AnswerTimeout)
	defer cancel()
	stream, err := f.ClusterState().Client.ListFleet(ctx, request)
	if err != nil {
		f.T.Fatal(err)
	}
	lists, ends := map[int64]*harness.Listed{}, map[int64]*railsrpc.FleetEnd{}
	for {
		part, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				f.T.Fatal(err)
			}
			break
		}
		id := part.GetAgentId()
		if ends[id] != nil {
			f.T.Errorf("agent %d goes on after its end", id)
		}
		if lists[id] == nil {
			lists[id] = &harness.Listed{}
		}
		if part.GetResponse() != nil {
			lists[id].Add(part.GetResponse())
		}
		if part.GetEnd() != nil {
			ends[id] = part.GetEnd()
		}
	}
	names = map[int64][]string{}
	for id, list := range lists {
		names[id] = list.Names()
	}
	return names, ends
}
