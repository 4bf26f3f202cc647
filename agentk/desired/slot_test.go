package desired_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/agentk/desired"
)

func TestSlot_KeepsTheNewest(t *testing.T) {
	var s desired.Slot[int]
	_, filled, newer := s.Get()
	require.False(t, filled)
	s.Put(1)
	s.Put(2)
	<-newer
	v, filled, newer := s.Get()
	require.True(t, filled)
	require.Equal(t, 2, v)
	select {
	case <-newer:
		t.Fatal("woken for nothing")
	default:
	}
}

func TestSlot_ReachesEveryReaderInTheEnd(t *testing.T) {
	const last = 1000
	var s desired.Slot[int]
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			before := -1
			for {
				v, filled, newer := s.Get()
				if filled && v < before {
					t.Errorf("went back from %d to %d", before, v)
				}
				if filled && v == last {
					return
				}
				before = v
				<-newer
			}
		})
	}
	for i := range last + 1 {
		s.Put(i)
	}
	wg.Wait()
}
