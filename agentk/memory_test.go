package agentk

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPercentFor_LargeHeapsGetNoMoreHeadroomThanSmallOnes(t *testing.T) {
	for _, row := range []struct {
		name string
		live uint64
		want int
	}{
		{"what is not known", 0, gcPercent},
		{"a small heap", 5 << 20, gcPercent},
		{"one as large as the headroom is a share of", 40 << 20, 25},
		{"a large heap still has some", 1 << 30, leastPercent},
	} {
		t.Run(row.name, func(t *testing.T) {
			require.Equal(t, row.want, percentFor(row.live))
		})
	}
	require.NotZero(t, liveBytes())
}
