// Package fakekas is a kas for the tests of ror's rooms: it says what it is told to
// say and remembers what it was asked for. A test sets its fields before it asks.
package fakekas

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/railsrpc"
)

// Kas is what package kasapi's client is to the other rooms.
type Kas struct {
	// Connected agents; Away is why that is not known.
	Connected []*railsrpc.ConnectedAgent
	Away      error

	// Commands that it was sent; Refusal is what it says to them.
	Commands []proto.Message
	Refusal  error
	// Differences is the answer to a comparison.
	Differences *railsrpc.DiffResponse

	Clusters
	Diagnostics
}

// ConnectedAgents implements what overview asks of kas.
func (k *Kas) ConnectedAgents(context.Context, []int64) ([]*railsrpc.ConnectedAgent, error) {
	return k.Connected, k.Away
}

func (k *Kas) take(m proto.Message) error {
	k.Commands = append(k.Commands, m)
	return k.Refusal
}

// Sync implements what control asks of kas, as do the following.
func (k *Kas) Sync(_ context.Context, r *railsrpc.SyncRequest) error { return k.take(r) }

// Suspend is remembered.
func (k *Kas) Suspend(_ context.Context, r *railsrpc.SuspendRequest) error { return k.take(r) }

// Resume is remembered.
func (k *Kas) Resume(_ context.Context, r *railsrpc.ResumeRequest) error { return k.take(r) }

// ApprovePrune is remembered.
func (k *Kas) ApprovePrune(_ context.Context, r *railsrpc.ApprovePruneRequest) error {
	return k.take(r)
}

// Diff is remembered.
func (k *Kas) Diff(_ context.Context, r *railsrpc.DiffRequest) (*railsrpc.DiffResponse, error) {
	return k.Differences, k.take(r)
}
