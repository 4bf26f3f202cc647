package cache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/labels"
)

func TestMetadataOf_ReadsWhatJSONHasWithoutDecodingIt(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		json    string
		created time.Time
		labels  labels.Set
	}{
		"an object with both":             {`{"kind":"Pod","metadata":{"creationTimestamp":"2026-01-02T03:04:05Z","labels":{"a":"b"}},"spec":{}}`, created, labels.Set{"a": "b"}},
		"labels that are escaped":         {`{"data":{"a\"b":"}]\\"},"metadata":{"labels":{"a":"<\"\\"},"name":"\\\""}}`, time.Time{}, labels.Set{"a": `<"\`}},
		"labels below something else":     {`{"spec":{"metadata":{"labels":{"a":"b"}}},"metadata":{"name":"x"}}`, time.Time{}, nil},
		"an object that was never stored": {`{"metadata":{"creationTimestamp":null,"labels":null}}`, time.Time{}, nil},
		"no metadata":                     {`{"kind":"Pod"}`, time.Time{}, nil},
		"metadata that are a number":      {`{"metadata":12}`, time.Time{}, nil},
		"what is cut off":                 {`{"metadata":{"labels":{"a":"b`, time.Time{}, nil},
		"nothing":                         {``, time.Time{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []*shared{nil, {}} {
				gotCreated, gotLabels := metadataOf([]byte(c.json), s)
				require.Equal(t, c.created, gotCreated)
				require.Equal(t, c.labels, gotLabels)
			}
		})
	}
}
