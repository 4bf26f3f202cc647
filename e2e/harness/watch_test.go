package harness

import (
	"strings"
	"testing"

	"github.com/kas-agentk/kas/api/clusterstate"
)

const (
	added    = clusterstate.EventType_EVENT_TYPE_ADDED
	modified = clusterstate.EventType_EVENT_TYPE_MODIFIED
	deleted  = clusterstate.EventType_EVENT_TYPE_DELETED
)

// event is an answer of a watch with one event.
func event(kind clusterstate.EventType, name, version string) *clusterstate.WatchResponse {
	return &clusterstate.WatchResponse{Cursor: "c", Events: []*clusterstate.Event{{
		Type: kind, Item: &clusterstate.Item{Name: name, ResourceVersion: version},
	}}}
}

func TestWatch_NoticesAnswersThatCannotBeTrue(t *testing.T) {
	begin := &clusterstate.WatchResponse{Reset_: true, Source: &clusterstate.Source{}, Cursor: "b"}
	for name, test := range map[string]struct {
		answers []*clusterstate.WatchResponse
		wrong   string
	}{
		"all is well":         {answers: []*clusterstate.WatchResponse{begin, event(added, "a", "1"), event(modified, "a", "2"), event(deleted, "a", "3"), event(added, "a", "4")}},
		"begun anew":          {answers: []*clusterstate.WatchResponse{begin, event(added, "a", "1"), {Reset_: true, Cursor: "c"}, event(added, "a", "1")}},
		"added twice":         {answers: []*clusterstate.WatchResponse{begin, event(added, "a", "1"), event(added, "a", "2")}, wrong: "was there already"},
		"changed and unknown": {answers: []*clusterstate.WatchResponse{begin, event(modified, "a", "1")}, wrong: "was not there"},
		"deleted and unknown": {answers: []*clusterstate.WatchResponse{begin, event(deleted, "a", "1")}, wrong: "was not there"},
		"told twice":          {answers: []*clusterstate.WatchResponse{begin, event(added, "a", "10"), event(modified, "a", "10")}, wrong: "version 10 after 10"},
		"an older version":    {answers: []*clusterstate.WatchResponse{begin, event(added, "a", "10"), event(modified, "a", "9")}, wrong: "version 9 after 10"},
		"no beginning":        {answers: []*clusterstate.WatchResponse{{Source: &clusterstate.Source{}, Cursor: "c"}}, wrong: "does not begin anew"},
		"no source":           {answers: []*clusterstate.WatchResponse{{Reset_: true, Cursor: "c"}}, wrong: "names no source"},
		"a lack of a cursor":  {answers: []*clusterstate.WatchResponse{begin, {}}, wrong: "without a cursor"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &Watch{items: map[string]*clusterstate.Item{}}
			for i, answer := range test.answers {
				w.take(answer, i == 0)
			}
			if got := strings.Join(w.wrong, "; "); !strings.Contains(got, test.wrong) || (got == "") != (test.wrong == "") {
				t.Errorf("found %q, want %q", got, test.wrong)
			}
		})
	}
}
