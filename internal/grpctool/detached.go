package grpctool

import "context"

// Detached returns a context that has nothing of ctx: neither its end, nor its values, as
// context.WithoutCancel has them. An RPC's values hold its connection in memory, which is not
// to be for what outlives it.
func Detached(context.Context) context.Context {
	return context.Background() //nolint:forbidigo // as explained
}
