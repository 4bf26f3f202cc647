package cache

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/objects"
)

// podObject is a pod as one of a Deployment is, running.
func podObject(i int) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(fmt.Appendf(nil, podJSON, i, i, i/10, i/10, i/10, i%250, i%250)); err != nil {
		panic(err)
	}
	return o
}

const podJSON = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-7c5b8d9f6b-%05d","namespace":"shop","uid":"3f2c1e0a-1111-4222-8333-4444%08d",
"resourceVersion":"123456","creationTimestamp":"2026-01-02T03:04:05Z","generateName":"web-7c5b8d9f6b-","labels":{"app":"web","pod-template-hash":"%08d",
"tier":"front"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-%08d","uid":"9e107d9d-0000-4000-8000-%012d",
"controller":true,"blockOwnerDeletion":true}],"managedFields":[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1",
"fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:containers":{}}}}]},
"spec":{"volumes":[{"name":"kube-api-access-abcde","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},
{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},{"downwardAPI":{"items":[{"path":"namespace","fieldRef":
{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}],"defaultMode":420}}],"containers":[{"name":"web","image":"registry.example.com/shop/web:1.2.3",
"ports":[{"containerPort":8080,"protocol":"TCP"}],"resources":{"limits":{"cpu":"500m","memory":"256Mi"},"requests":{"cpu":"100m","memory":"128Mi"}},
"volumeMounts":[{"name":"kube-api-access-abcde","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],
"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Always",
"terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","nodeName":"node-1","schedulerName":"default-scheduler",
"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},
{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],"priority":0,"enableServiceLinks":true},
"status":{"phase":"Running","conditions":[{"type":"Initialized","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-02T03:04:05Z"},
{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-02T03:04:15Z"},{"type":"ContainersReady","status":"True",
"lastProbeTime":null,"lastTransitionTime":"2026-01-02T03:04:15Z"},{"type":"PodScheduled","status":"True","lastProbeTime":null,
"lastTransitionTime":"2026-01-02T03:04:05Z"}],"hostIP":"10.0.0.1","podIP":"10.1.%d.7","podIPs":[{"ip":"10.1.%d.7"}],"startTime":"2026-01-02T03:04:05Z",
"containerStatuses":[{"name":"web","state":{"running":{"startedAt":"2026-01-02T03:04:14Z"}},"lastState":{},"ready":true,"restartCount":0,
"image":"registry.example.com/shop/web:1.2.3","imageID":"registry.example.com/shop/web@sha256:0123456789abcdef","containerID":"containerd://0123456789abcdef",
"started":true}],"qosClass":"Burstable"}}`

// podTable is pods as a Table of the API server.
func podTable(from, until int) string {
	type object struct {
		Metadata json.RawMessage `json:"metadata"`
	}
	rows := make([]map[string]any, 0, until-from)
	for i := from; i < until; i++ {
		o := podObject(i)
		metadata, err := json.Marshal(o.Object["metadata"])
		if err != nil {
			panic(err)
		}
		rows = append(rows, map[string]any{
			"cells":  []any{o.GetName(), "1/1", "Running", "0", "5m", fmt.Sprintf("10.1.%d.%d", i/250, i%250), fmt.Sprintf("node-%d", i%100), nil, nil},
			"object": object{metadata},
		})
	}
	data, err := json.Marshal(map[string]any{
		"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": map[string]any{"resourceVersion": "123456"},
		"columnDefinitions": podColumns, "rows": rows,
	})
	if err != nil {
		panic(err)
	}
	return string(data)
}

var podColumns = []map[string]any{
	{"name": "Name", "type": "string", "format": "name", "description": described["name"]},
	{"name": "Ready", "type": "string"},
	{"name": "Status", "type": "string"},
	{"name": "Restarts", "type": "string"},
	{"name": "Age", "type": "string", "description": described["creationTimestamp"]},
	{"name": "IP", "type": "string", "priority": 1},
	{"name": "Node", "type": "string", "priority": 1},
	{"name": "Nominated Node", "type": "string", "priority": 1},
	{"name": "Readiness Gates", "type": "string", "priority": 1},
}

// liveHeap in bytes.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

var kept sync.Map

func BenchmarkMemory_10000Pods(b *testing.B) {
	const n = 10_000
	for _, c := range []struct {
		name string
		make func() *store
	}{
		{name: "for the engine", make: func() *store {
			s, _ := fill(clock.RealClock{}, manyPods(n)...)
			return s
		}},
		{name: "for the engine and listed whole", make: func() *store {
			s, _ := fill(clock.RealClock{}, manyPods(n)...)
			s.list("")
			return s
		}},
		{name: "as a table", make: func() *store {
			s, _ := fill(clock.RealClock{}, manyRows(n)...)
			s.list("")
			return s
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				before := liveHeap()
				s := c.make()
				b.ReportMetric(float64(liveHeap()-before)/n, "B/pod")
				kept.Store(0, s)
				kept.Clear()
			}
		})
	}
}

func manyRows(n int) []entry {
	t := &tableSource{}
	rows := make([]entry, 0, n)
	for from := 0; from < n; from += 500 {
		var a answer
		if err := json.Unmarshal([]byte(podTable(from, from+500)), &a); err != nil {
			panic(err)
		}
		for _, r := range a.recordsOf(columnsOf(a.Columns), &t.shared) {
			rows = append(rows, r.(entry))
		}
	}
	return rows
}

var sink int

// The engine's objects, of which the first list makes what is shown.
func manyPods(n int) []entry {
	r := &resource{cache: &Cache{cfg: Config{FieldManager: "agentk"}}, mapping: pods}
	entries := make([]entry, 0, n)
	for i := range n {
		projected, err := r.project(podObject(i))
		if err != nil {
			panic(err)
		}
		entries = append(entries, projected.(entry))
	}
	return entries
}

func BenchmarkList_10000Pods(b *testing.B) {
	s, r := fill(clock.RealClock{}, manyPods(10_000)...)
	for _, c := range []struct {
		name string
		cut  bool
		step func(i int)
	}{
		{name: "unchanged", step: func(int) {}},
		{name: "after a change", step: func(i int) { s.put(r, pod("n", "p-5000", strconv.Itoa(i))) }},
		{name: "after a pod came and one went", step: func(i int) {
			s.put(r, pod("n", "new", strconv.Itoa(i)))
			s.remove(r, objects.Key{Namespace: "n", Name: "new"}, strconv.Itoa(i))
		}},
		{name: "first", step: func(int) { s.forget() }},
		{name: "cut to metadata", cut: true, step: func(int) {}},
	} {
		b.Run(c.name, func(b *testing.B) {
			v := &view{store: s, cut: c.cut}
			b.ReportAllocs()
			for i := range b.N {
				c.step(i + 1_000_000)
				list, _ := v.List("")
				sink += len(list)
			}
		})
	}
}
