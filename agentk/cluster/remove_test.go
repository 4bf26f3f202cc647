package cluster

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

const ownedBy = "1-2"

// oneConfigMap serves ConfigMap n/a as the API server does, as far as conditions go.
type oneConfigMap struct {
	mu      sync.Mutex
	exists  bool
	object  metav1.ObjectMeta
	deletes []metav1.DeleteOptions
	// always: deletions conflict, as those of a namespace that is being deleted do.
	always bool
	// before, unless nil, is called once before the next write.
	before func()
}

func (o *oneConfigMap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/api/v1" {
		_ = json.NewEncoder(w).Encode(resources(resource("ConfigMap", "configmaps", true)))
		return
	}
	if r.Method != http.MethodGet && o.before != nil {
		o.before()
		o.before = nil
	}
	var uid, version string
	switch r.Method {
	case http.MethodDelete:
		var opts metav1.DeleteOptions
		_ = json.NewDecoder(r.Body).Decode(&opts)
		o.deletes = append(o.deletes, opts)
		if p := opts.Preconditions; p != nil {
			if p.UID != nil {
				uid = string(*p.UID)
			}
			if p.ResourceVersion != nil {
				version = *p.ResourceVersion
			}
		}
	case http.MethodPatch:
		var patch metav1.PartialObjectMetadata
		_ = json.NewDecoder(r.Body).Decode(&patch)
		uid, version = string(patch.UID), patch.ResourceVersion
	}
	switch {
	case !o.exists:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	case o.always && r.Method == http.MethodDelete, uid != "" && uid != string(o.object.UID), version != "" && version != o.object.ResourceVersion:
		refuse(w, http.StatusConflict, metav1.StatusReasonConflict)
		return
	}
	switch r.Method {
	case http.MethodDelete:
		o.exists = false
	case http.MethodPatch:
		delete(o.object.Annotations, gitops.OwnerAnnotation)
		o.change()
	}
	_ = json.NewEncoder(w).Encode(metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}, ObjectMeta: o.object,
	})
}

// change is somebody's write.
func (o *oneConfigMap) change() {
	n, _ := strconv.Atoi(o.object.ResourceVersion)
	o.object.ResourceVersion = strconv.Itoa(n + 1)
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}

// nothingCached is a Cache that knows nothing.
type nothingCached struct{ Cache }

func (nothingCached) Subscribe(func(schema.GroupResource, string, string, string)) func() {
	return func() {}
}

func (nothingCached) Get(schema.GroupResource, string, string) (gitops.Live, bool) {
	return gitops.Live{}, false
}

func TestRemove_DeletesOnlyWhatWasSeenAndIsStillOurs(t *testing.T) {
	id := inventory.ID{GroupKind: schema.GroupKind{Kind: "ConfigMap"}, Namespace: "n", Name: "a"}
	for _, row := range []struct {
		name string
		// meanwhile happens between the look and the removal.
		meanwhile func(*oneConfigMap)
		detach    bool
		stays     bool
		owner     string
		err       error
	}{
		{name: "an object that is as it was seen is deleted"},
		{name: "one that is gone is no error", meanwhile: func(o *oneConfigMap) { o.exists = false }},
		{name: "one that only changed is deleted as well", meanwhile: (*oneConfigMap).change},
		{
			name: "another one of that name stays", stays: true, owner: ownedBy,
			meanwhile: func(o *oneConfigMap) { o.object.UID = "another"; o.change() },
		},
		{
			name: "one that somebody took over stays", stays: true, owner: "9-9", err: gitops.ErrTakenOver,
			meanwhile: func(o *oneConfigMap) { o.object.Annotations[gitops.OwnerAnnotation] = "9-9"; o.change() },
		},
		{
			name: "one that was marked to stay does", stays: true, owner: ownedBy, err: errMarkedToStay,
			meanwhile: func(o *oneConfigMap) { o.object.Annotations["cli-utils.sigs.k8s.io/on-remove"] = "keep"; o.change() },
		},
		{
			name: "one that is being deleted by now is no error", stays: true, owner: ownedBy,
			meanwhile: func(o *oneConfigMap) {
				o.object.DeletionTimestamp = &metav1.Time{Time: time.Now()}
				o.always = true
			},
		},
		{name: "one to be let go of loses the mark", detach: true, stays: true},
		{
			name: "one that somebody took over keeps the new mark", detach: true, stays: true, owner: "9-9", err: gitops.ErrTakenOver,
			meanwhile: func(o *oneConfigMap) { o.object.Annotations[gitops.OwnerAnnotation] = "9-9"; o.change() },
		},
		{
			name: "another one of that name keeps its mark", detach: true, stays: true, owner: ownedBy,
			meanwhile: func(o *oneConfigMap) { o.object.UID = "another"; o.change() },
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := &oneConfigMap{exists: true, object: metav1.ObjectMeta{
				Namespace: "n", Name: "a", UID: "seen", ResourceVersion: "7",
				Annotations: map[string]string{gitops.OwnerAnnotation: ownedBy},
			}}
			if row.meanwhile != nil {
				o.before = func() { row.meanwhile(o) }
			}
			server := httptest.NewServer(o)
			t.Cleanup(server.Close)
			// Without credentials, as through a kubectl proxy.
			c, err := New(Config{RESTConfig: &rest.Config{Host: server.URL}, Namespace: "n", Cache: nothingCached{}})
			require.NoError(t, err)
			err = c.Remove(t.Context(), gitops.Remove{
				ID: id, UID: "seen", ResourceVersion: "7", Owner: ownedBy, Propagation: "Foreground", Detach: row.detach,
			})
			require.ErrorIs(t, err, row.err)
			require.Equal(t, row.stays, o.exists)
			if row.stays {
				require.Equal(t, row.owner, o.object.Annotations[gitops.OwnerAnnotation])
			}
			for i := range o.deletes {
				require.Equal(t, types.UID("seen"), *o.deletes[i].Preconditions.UID)
				require.NotEmpty(t, *o.deletes[i].Preconditions.ResourceVersion)
				require.Equal(t, metav1.DeletePropagationForeground, *o.deletes[i].PropagationPolicy)
			}
		})
	}
}
