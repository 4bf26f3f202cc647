package gitops

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestComparison_OfListsTellsWhatIsNewAndWhatMoved(t *testing.T) {
	for _, row := range []struct {
		name, before, after string
		want                []FieldDifference
	}{
		{"an element put in at the front is one difference", `["a","b"]`, `["x","a","b"]`, []FieldDifference{{"[0]", "", `"x"`}}},
		{"one taken out of the middle as well", `["a","b","c"]`, `["a","c"]`, []FieldDifference{{"[1]", `"b"`, ""}}},
		{"equally many are compared by place", `["a","b"]`, `["b","c"]`, []FieldDifference{{"[0]", `"a"`, `"b"`}, {"[1]", `"b"`, `"c"`}}},
		{"the same elements twice", `["a","a"]`, `["a"]`, []FieldDifference{{"[1]", `"a"`, ""}}},
		{"named ones that stay are told by place", `[{"name":"a","v":1}]`, `[{"name":"a","v":2},{"name":"b"}]`,
			[]FieldDifference{{"[0].v", "1", "2"}, {"[1]", "", `{"name":"b"}`}}},
		{"named ones that moved, by their names", `[{"name":"a","v":1}]`, `[{"name":"b"},{"name":"a","v":2}]`,
			[]FieldDifference{{"[name=a].v", "1", "2"}, {"[name=b]", "", `{"name":"b"}`}}},
		{"one that is gone before another", `[{"name":"a"},{"name":"b","v":1}]`, `[{"name":"b","v":2}]`,
			[]FieldDifference{{"[name=a]", `{"name":"a"}`, ""}, {"[name=b].v", "1", "2"}}},
		{"another order is a difference", `[{"name":"a"},{"name":"b"}]`, `[{"name":"b"},{"name":"a"}]`,
			[]FieldDifference{{" (order)", `["a","b"]`, `["b","a"]`}}},
		{"names that are there twice are none", `[{"name":"a"},{"name":"a","v":1}]`, `[{"name":"a","v":1}]`,
			[]FieldDifference{{"[0]", `{"name":"a"}`, ""}}},
		{"nothing differs", `[{"name":"a"},1]`, `[{"name":"a"},1]`, nil},
		{"all is new", `[]`, `[1]`, []FieldDifference{{"[0]", "", "1"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var before, after []any
			require.NoError(t, json.Unmarshal([]byte(row.before), &before))
			require.NoError(t, json.Unmarshal([]byte(row.after), &after))
			c := &comparison{}
			c.compareLists("", before, after)
			require.Equal(t, row.want, c.fields)
		})
	}
}
