package tracing

import "go.opentelemetry.io/otel/attribute"

// What spans say of themselves, by the names that logs have for it. Names of objects, and
// what they hold, are never among it.

// AgentID is the number that RoR gave an agent.
func AgentID(id int64) attribute.KeyValue { return attribute.Int64("agent_id", id) }

// Project is the full path of a project.
func Project(path string) attribute.KeyValue { return attribute.String("project", path) }

// Commit is a Git commit ID.
func Commit(id string) attribute.KeyValue { return attribute.String("commit", id) }

// Objects is how many objects it is about.
func Objects(n int) attribute.KeyValue { return attribute.Int("objects", n) }

// Failed is how many objects failed.
func Failed(n int) attribute.KeyValue { return attribute.Int("failed", n) }

// Outcome is how it ended, in a word.
func Outcome(word string) attribute.KeyValue { return attribute.String("outcome", word) }
