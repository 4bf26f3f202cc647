package scale

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCPUTime_GrowsWithWork(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	require.NoError(t, err)
	sum := 0
	for began := time.Now(); time.Since(began) < 10*time.Second; {
		for i := range 1_000_000 {
			sum += i
		}
		now, err := cpuTime(os.Getpid())
		require.NoError(t, err)
		if now-before >= 3*tick {
			return
		}
	}
	t.Fatal("no CPU time is seen", sum)
}

func TestCPUTime_ProcessThatIsGoneIsAnError(t *testing.T) {
	_, err := cpuTime(1 << 30)
	require.Error(t, err)
}
