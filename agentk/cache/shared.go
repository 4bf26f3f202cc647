package cache

import "k8s.io/apimachinery/pkg/labels"

const (
	// maxSharedLabels and maxSharedTexts bound what is remembered for sharing. What is
	// shared most is remembered again at once.
	maxSharedLabels = 1024
	maxSharedTexts  = 4096
)

// shared has objects that say the same keep it once: the pods of a Deployment have
// the same labels, and most cells of a table read like others. It may be nil, and be
// used by one goroutine at a time.
type shared struct {
	labels map[string]labels.Set
	texts  map[string]string
}

// labelsOf decodes labels. Nobody may change them.
func (s *shared) labelsOf(value []byte) labels.Set {
	if len(value) == 0 {
		return nil
	}
	if s == nil {
		return decodeLabels(value)
	}
	if set, ok := s.labels[string(value)]; ok {
		return set
	}
	if s.labels == nil || len(s.labels) >= maxSharedLabels {
		s.labels = map[string]labels.Set{}
	}
	set := decodeLabels(value)
	s.labels[string(value)] = set
	return set
}

// text returns one that is equal.
func (s *shared) text(text string) string {
	if s == nil || text == "" {
		return text
	}
	if known, ok := s.texts[text]; ok {
		return known
	}
	if s.texts == nil || len(s.texts) >= maxSharedTexts {
		s.texts = map[string]string{}
	}
	s.texts[text] = text
	return text
}
