package agentk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/inventory"
)

func TestWaits_ObjectThatFailsAnewDoesNotWaitForAnothersBackoff(t *testing.T) {
	old, fresh := inventory.ID{Name: "old"}, inventory.ID{Name: "fresh"}
	w := newWaits()
	first := w.again([]inventory.ID{old})
	require.Less(t, first, 7*time.Second)
	var last time.Duration
	for range 8 {
		last = w.again([]inventory.ID{old})
	}
	require.Greater(t, last, 3*time.Minute)
	require.Less(t, w.again([]inventory.ID{old, fresh}), 7*time.Second)
	require.Greater(t, w.again([]inventory.ID{old, fresh}), 7*time.Second, "both have failed before by now")
}
