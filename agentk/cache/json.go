package cache

import (
	"encoding/json"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kas-agentk/kas/internal/rawjson"
)

// What is here reads objects that were encoded by encoding/json without decoding them:
// of what is malformed it finds nothing.

// metadataOf returns when an object was created, and its labels.
func metadataOf(object []byte, shared *shared) (created time.Time, set labels.Set) {
	rawjson.Members(object, func(key, value []byte) bool {
		if string(key) != "metadata" {
			return true
		}
		rawjson.Members(value, func(key, value []byte) bool {
			switch string(key) {
			case "creationTimestamp":
				created = timeOf(value)
			case "labels":
				set = shared.labelsOf(value)
			}
			return true
		})
		return false
	})
	return created, set
}

// timeOf decodes a time; zero: it is none.
func timeOf(value []byte) time.Time {
	if len(value) < 2 || value[0] != '"' {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, string(value[1:len(value)-1]))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// decodeLabels returns nil for what are none.
func decodeLabels(value []byte) labels.Set {
	var set labels.Set
	if json.Unmarshal(value, &set) != nil {
		return nil
	}
	return set
}
