package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/internal/objects"
)

const (
	acceptTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	acceptPlain = "application/json"
)

// newRawClient returns a client that leaves answers as they are.
func newRawClient(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config = rest.CopyConfig(config)
	config.GroupVersion = &schema.GroupVersion{}
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = "application/json"
	config.AcceptContentTypes = "application/json"
	config.WarningHandler = rest.NoWarnings{} // they are for whoever writes manifests
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, err //nolint:wrapcheck // New does
	}
	return client, nil
}

// tableSource lists and watches a resource as the table that the API server makes of it,
// so that the columns are its own. Where it makes none, the table has what every object
// has.
//
// A list is a Table of many rows. Each event of a watch is a Table of one row, a bookmark
// as well; the first alone has the columns. Should they be others than those of the list,
// the watch ends as an expired one does, and a list follows.
type tableSource struct {
	client     rest.Interface
	path       string
	parameters runtime.ParameterCodec

	mu      sync.Mutex
	columns []objects.Column // nil: not known
	plain   bool             // tables are refused
	shared  shared
}

func newTableSource(client rest.Interface, m *meta.RESTMapping) *tableSource {
	gvr := m.Resource
	path := "/apis/" + gvr.Group + "/" + gvr.Version + "/" + gvr.Resource
	if gvr.Group == "" {
		path = "/api/" + gvr.Version + "/" + gvr.Resource
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return &tableSource{client: client, path: path, parameters: runtime.NewParameterCodec(scheme)}
}

// columnsNow returns the columns of the newest list; nil for none.
func (t *tableSource) columnsNow() []objects.Column {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.columns
}

// list is a cache.ListWithContextFunc.
func (t *tableSource) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	result := t.request(&o).Do(ctx)
	if t.refused(result.Error()) {
		result = t.request(&o).Do(ctx)
	}
	if err := result.Error(); err != nil {
		return nil, err //nolint:wrapcheck // an API error as it is
	}
	data, err := result.Raw()
	if err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("list %s as a table: %w", t.path, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.Continue == "" || t.columns == nil {
		t.columns = plainColumns
		if a.isTable() {
			t.columns = columnsOf(a.Columns)
		}
	}
	return &recordList{
		ListMeta: metav1.ListMeta{ResourceVersion: a.Metadata.ResourceVersion, Continue: a.Metadata.Continue},
		Items:    a.recordsOf(t.columns, &t.shared),
	}, nil
}

// watch is a cache.WatchFuncWithContext.
func (t *tableSource) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	body, err := t.request(&o).Stream(ctx)
	if t.refused(err) {
		body, err = t.request(&o).Stream(ctx)
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // an API error as it is
	}
	anew := o.SendInitialEvents != nil && *o.SendInitialEvents
	return watch.NewStreamWatcher(
		&tableDecoder{source: t, body: body, decoder: json.NewDecoder(body), anew: anew},
		apierrors.NewClientErrorReporter(http.StatusInternalServerError, http.MethodGet, "TableWatchDecoding")), nil
}

func (t *tableSource) request(o *metav1.ListOptions) *rest.Request {
	t.mu.Lock()
	plain := t.plain
	t.mu.Unlock()
	request := t.client.Get().AbsPath(t.path).SpecificallyVersionedParams(o, t.parameters, schema.GroupVersion{Version: "v1"})
	if plain {
		return request.SetHeader("Accept", acceptPlain)
	}
	return request.SetHeader("Accept", acceptTable).Param("includeObject", string(metav1.IncludeMetadata))
}

// refused notes that the API server makes no tables of the resource, and says whether
// that is news.
func (t *tableSource) refused(err error) bool {
	if !apierrors.IsNotAcceptable(err) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	news := !t.plain
	t.plain = true
	return news
}

// tableDecoder is a watch.Decoder.
type tableDecoder struct {
	source  *tableSource
	body    io.ReadCloser
	decoder *json.Decoder
	// anew: the watch begins with a list.
	anew bool
}

var _ watch.Decoder = (*tableDecoder)(nil)

// errColumns ends a watch whose columns are new.
var errColumns = errors.New("the columns have changed")

// Decode implements watch.Decoder.
func (d *tableDecoder) Decode() (watch.EventType, runtime.Object, error) {
	for {
		var event struct {
			Type   watch.EventType `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := d.decoder.Decode(&event); err != nil {
			return "", nil, err //nolint:wrapcheck // the watcher tells the end of a stream from other errors
		}
		if event.Type == watch.Error {
			status := &metav1.Status{}
			if err := json.Unmarshal(event.Object, status); err != nil {
				return "", nil, fmt.Errorf("watch %s as a table: %w", d.source.path, err)
			}
			return event.Type, status, nil
		}
		var a answer
		if err := json.Unmarshal(event.Object, &a); err != nil {
			return "", nil, fmt.Errorf("watch %s as a table: %w", d.source.path, err)
		}
		object, err := d.source.told(event.Type, &a, d.anew)
		if err != nil {
			expired := apierrors.NewResourceExpired(err.Error()).Status()
			return watch.Error, &expired, nil
		}
		if object != nil {
			return event.Type, object, nil
		}
	}
}

// Close implements watch.Decoder.
func (d *tableDecoder) Close() { _ = d.body.Close() }

// told returns the object of an event; nil: there is none.
func (t *tableSource) told(event watch.EventType, a *answer, anew bool) (runtime.Object, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.learn(a, anew); err != nil {
		return nil, err
	}
	metadata, cells := &a.Metadata, []cell(nil)
	if a.isTable() {
		if len(a.Rows) == 0 {
			return nil, nil //nolint:nilnil // no row, no object
		}
		metadata, cells = &a.Rows[0].Object.Metadata, a.Rows[0].Cells
	}
	if event == watch.Bookmark {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: metadata.ResourceVersion, Annotations: metadata.Annotations,
		}}, nil
	}
	return recordOf(metadata, cells, t.columns, &t.shared), nil
}

// learn takes the columns of a watch that begins anew, and compares those of others.
func (t *tableSource) learn(a *answer, anew bool) error {
	var columns []objects.Column
	switch {
	case a.isTable() && len(a.Columns) > 0:
		columns = columnsOf(a.Columns)
	case !a.isTable() && t.columns == nil:
		columns = plainColumns
	default:
		return nil
	}
	if t.columns != nil && !anew && !slices.Equal(t.columns, columns) {
		return errColumns
	}
	t.columns = columns
	return nil
}
