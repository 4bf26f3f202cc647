package cache

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/objects"
)

// How a real API server tells of tables is tested in e2e/engine.

func TestView_TableFromAnAPIServerThatHasNone(t *testing.T) {
	for name, refuses := range map[string]bool{"answers with a list": false, "refuses": true} {
		t.Run(name, func(t *testing.T) {
			a := newAPI()
			host := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if refuses && strings.Contains(r.Header.Get("Accept"), "as=Table") {
					w.WriteHeader(http.StatusNotAcceptable)
					return
				}
				a.ServeHTTP(w, r)
			})
			c := start(t, host, testclock.NewFakeClock(time.Now()))
			v, err := c.View(t.Context(), configMaps, objects.Table)
			require.NoError(t, err)
			defer v.Release()
			require.Equal(t, plainColumns, v.Columns())
			list, p := v.List("")
			require.Len(t, list, 2)
			require.Equal(t, []string{"a", ""}, list[0].Cells)
			require.Equal(t, "x", list[0].Labels["app"])
			require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), list[0].Created)
			require.Nil(t, list[0].JSON)
			changed := v.Changed(p)
			a.events <- `{"type": "ADDED", "object": ` + configMap("c", "8") + `}`
			<-changed
			require.Equal(t, []string{"c", ""}, v.Get("n", "c").Cells)
		})
	}
}

func TestView_TableWithOtherColumnsBeginsAnew(t *testing.T) {
	a := newAPI()
	table := func(column string) string {
		return `{"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "9"},
			"columnDefinitions": [{"name": "Name", "type": "string"}, {"name": "` + column + `", "type": "string"}],
			"rows": [{"cells": ["a", "x"], "object": ` + configMap("a", "5") + `}]}`
	}
	var column atomic.Value
	column.Store("One")
	a.list = func(*http.Request) string { return table(column.Load().(string)) }
	c := start(t, serve(t, a.ServeHTTP), testclock.NewFakeClock(time.Now()))
	v, err := c.View(t.Context(), configMaps, objects.Table)
	require.NoError(t, err)
	defer v.Release()
	_, p := v.List("")
	require.Equal(t, "One", v.Columns()[1].Name)
	column.Store("Other")
	a.events <- `{"type": "BOOKMARK", "object": ` + strings.ReplaceAll(table("Other"), "\n", "") + `}`
	<-v.Ended()
	_, _, known := v.Since(p)
	require.False(t, known)
	again, err := c.View(t.Context(), configMaps, objects.Table)
	require.NoError(t, err)
	defer again.Release()
	require.Equal(t, "Other", again.Columns()[1].Name)
	require.Equal(t, []string{"a", "x"}, again.Get("n", "a").Cells)
	require.Equal(t, "One", v.Columns()[1].Name, "what was opened does not change")
}

func TestCell_ReadsAsKubectlPrintsIt(t *testing.T) {
	for json, want := range map[string]cell{
		`"text"`: "text", `"two\nlines"`: "two...", `3`: "3", `1.5`: "1.5", `true`: "true", `null`: "", `["a","b"]`: "[a b]",
	} {
		require.Equal(t, want, decodeCell(t, json), json)
	}
}

func decodeCell(t *testing.T, text string) cell {
	t.Helper()
	var row answerRow
	require.NoError(t, json.Unmarshal(fmt.Appendf(nil, `{"cells": ["first", %s]}`, text), &row))
	return row.Cells[1]
}

func TestTellsAge_OfWhatIsComputedFromTheCreation(t *testing.T) {
	const path = "Custom resource definition column (in JSONPath format): "
	for name, c := range map[string]struct {
		column metav1.TableColumnDefinition
		want   bool
	}{
		"a printer of Kubernetes":                    {metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: described["creationTimestamp"]}, true},
		"a custom resource without columns":          {metav1.TableColumnDefinition{Name: "Age", Type: "date", Description: described["creationTimestamp"]}, true},
		"a column of a custom resource by its path":  {metav1.TableColumnDefinition{Name: "Since", Type: "date", Description: path + ".metadata.creationTimestamp"}, true},
		"a column called age that has a description": {metav1.TableColumnDefinition{Name: "AGE", Type: "date", Description: "how old"}, true},
		"another date of a custom resource":          {metav1.TableColumnDefinition{Name: "Seen", Type: "date", Description: path + ".status.seen"}, false},
		"another date that is called age":            {metav1.TableColumnDefinition{Name: "Age", Type: "date", Description: path + ".status.started"}, false},
		"a text that is called age":                  {metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: path + ".spec.age"}, false},
		"the time itself":                            {metav1.TableColumnDefinition{Name: "Created At", Type: "date", Description: described["creationTimestamp"]}, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, tellsAge(c.column)) })
	}
}

func TestAnswer_RowsThatAreNotAsTheColumnsSay(t *testing.T) {
	var a answer
	require.NoError(t, json.Unmarshal([]byte(`{"kind": "Table", "rows": [
		{"cells": ["a"], "object": {"metadata": {"name": "a"}}},
		{"cells": ["b", "1", "2", "3"], "object": {"metadata": {"name": "b"}}},
		{"cells": null, "object": null}]}`), &a))
	rows := a.recordsOf([]objects.Column{{Name: "Name"}, {Name: "Count"}}, nil)
	require.Len(t, rows, 3)
	require.Equal(t, []string{"a", ""}, rows[0].(*record).Cells)
	require.Equal(t, []string{"b", "1"}, rows[1].(*record).Cells)
	require.Equal(t, []string{"", ""}, rows[2].(*record).Cells)
}

func FuzzAnswer(f *testing.F) {
	f.Add(podTable(0, 2))
	f.Add(`{"kind": "ConfigMapList", "items": [{"metadata": {"name": "x", "labels": 3}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, anew := range []bool{true, false} {
			source := &tableSource{}
			var a answer
			if json.Unmarshal([]byte(text), &a) != nil {
				return
			}
			object, err := source.told("ADDED", &a, anew)
			if row, ok := object.(*record); ok {
				require.NoError(t, err)
				require.Len(t, row.Cells, len(source.columnsNow()))
			}
			a.recordsOf(plainColumns, &source.shared)
		}
	})
}
