package cache

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unique"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/internal/objects"
)

// answer is what an API server says that was asked for a table: one, of many rows or
// one, or, where it has none, a list or an object.
type answer struct {
	Kind     string         `json:"kind"`
	Metadata answerMetadata `json:"metadata"`
	// Columns, in the first answer of a watch alone.
	Columns []metav1.TableColumnDefinition `json:"columnDefinitions"`
	Rows    []answerRow                    `json:"rows"`
	Items   []struct {
		Metadata answerMetadata `json:"metadata"`
	} `json:"items"`
}

type answerRow struct {
	Cells  []cell `json:"cells"`
	Object struct {
		Metadata answerMetadata `json:"metadata"`
	} `json:"object"`
}

// answerMetadata is of an object or a list.
type answerMetadata struct {
	Namespace         string            `json:"namespace"`
	Name              string            `json:"name"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	CreationTimestamp time.Time         `json:"creationTimestamp"`
	Labels            json.RawMessage   `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	Continue          string            `json:"continue"`
}

// isTable says that the answer has columns, or had them earlier.
func (a *answer) isTable() bool { return a.Kind == "Table" }

// cell is a text as kubectl prints it.
type cell string

// UnmarshalJSON implements json.Unmarshaler.
func (c *cell) UnmarshalJSON(data []byte) error {
	switch {
	case len(data) == 0 || data[0] == 'n':
		*c = ""
	case data[0] == '"':
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return fmt.Errorf("cell of a table: %w", err)
		}
		// As kubectl does, which prints a line for an object.
		if end := strings.IndexAny(s, "\f\n\r"); end >= 0 {
			s = s[:end] + "..."
		}
		*c = cell(s)
	case data[0] == '[' || data[0] == '{':
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			return fmt.Errorf("cell of a table: %w", err)
		}
		*c = cell(fmt.Sprint(v))
	default:
		*c = cell(data)
	}
	return nil
}

var described = metav1.ObjectMeta{}.SwaggerDoc()

// plainColumns are those of an API server that has no tables.
var plainColumns = []objects.Column{
	{Name: "Name", Type: "string", Format: "name", Description: described["name"]},
	{Name: "Age", Type: "string", Description: described["creationTimestamp"], Age: true},
}

func columnsOf(definitions []metav1.TableColumnDefinition) []objects.Column {
	columns := make([]objects.Column, 0, len(definitions))
	for _, d := range definitions {
		columns = append(columns, objects.Column{
			Name: d.Name, Type: d.Type, Format: d.Format, Description: d.Description, Priority: d.Priority, Age: tellsAge(d),
		})
	}
	return columns
}

// tellsAge says that a column has the time since an object was created.
//
//   - Kubernetes' own printers call it "Age" and describe it as metadata.creationTimestamp
//     is described. Theirs is of type "string". So is the column that a custom resource
//     without columns of its own has, but for its type "date".
//   - Of a custom resource's own column that has no description, the API server tells the
//     path; what has one is a date that is called "Age".
//   - An API server's generic printer calls a column "Created At", of type "date" and so
//     described: it has the time itself, which is no age.
func tellsAge(d metav1.TableColumnDefinition) bool {
	const byPath = "Custom resource definition column (in JSONPath format): "
	switch d.Type {
	case "date":
		if path, told := strings.CutPrefix(d.Description, byPath); told {
			return path == ".metadata.creationTimestamp"
		}
		return strings.EqualFold(d.Name, "age")
	case "string":
		return d.Description == described["creationTimestamp"] && strings.EqualFold(d.Name, "age")
	default:
		return false
	}
}

// recordOf makes a row. Without cells, it has what every object has.
func recordOf(m *answerMetadata, cells []cell, columns []objects.Column, shared *shared) *record {
	o := objects.Object{
		Namespace: unique.Make(m.Namespace).Value(), Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		Created: m.CreationTimestamp.UTC(), Labels: shared.labelsOf(m.Labels),
		Cells: make([]string, len(columns)),
	}
	for i, column := range columns {
		switch {
		case column.Age: // computed when it is asked for
		case i < len(cells) && string(cells[i]) == m.Name, cells == nil && column.Format == "name":
			o.Cells[i] = m.Name
		case i < len(cells):
			o.Cells[i] = shared.text(string(cells[i]))
		}
	}
	return &record{o}
}

// recordsOf makes the rows of a list.
func (a *answer) recordsOf(columns []objects.Column, shared *shared) []runtime.Object {
	records := make([]runtime.Object, 0, len(a.Rows)+len(a.Items))
	for i := range a.Rows {
		row := &a.Rows[i]
		records = append(records, recordOf(&row.Object.Metadata, row.Cells, columns, shared))
	}
	for i := range a.Items {
		records = append(records, recordOf(&a.Items[i].Metadata, nil, columns, shared))
	}
	return records
}

// recordList is a list of records, for client-go.
type recordList struct {
	metav1.ListMeta
	Items []runtime.Object
}

var _ runtime.Object = (*recordList)(nil)

// GetObjectKind has client-go take it for an object.
func (l *recordList) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject returns the list itself, which nobody changes.
func (l *recordList) DeepCopyObject() runtime.Object { return l }

var _ meta.List = (*recordList)(nil)
