package replicas

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	testingclock "k8s.io/utils/clock/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nowhere is where nobody listens.
const nowhere = "127.0.0.1:1"

// without is a Replicas whose Redis is away, on a clock of the test's own.
func without(t *testing.T) (*Replicas, *testingclock.FakeClock) {
	t.Helper()
	c := testingclock.NewFakeClock(time.Unix(1e9, 0))
	r, err := New(Config{Self: "grpc://a:1", Redis: Redis{Addresses: []string{nowhere}}, Clock: c},
		Collaborators{Registerer: prometheus.NewRegistry(), Log: zap.NewNop()})
	require.NoError(t, err)
	return r, c
}
