package redis

import (
	"strings"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox"
)

// relay is the network between a replica and Redis.
type relay struct {
	*harness.Relay
	address string
}

func relayTo(t *testing.T, redis *sandbox.Redis) relay {
	t.Helper()
	r := (&harness.Fixture{T: t}).NewRelay(redis.Address)
	return relay{Relay: r, address: strings.TrimPrefix(r.Address, "grpc://")}
}
