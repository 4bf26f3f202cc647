package kas

import (
	"slices"
	"testing"
)

func TestPercentFor(t *testing.T) {
	for name, row := range map[string]struct {
		live uint64
		want int
	}{
		"nothing is known":                       {0, 100},
		"a small kas has Go's own share":         {64 << 20, 100},
		"a larger one has a bounded headroom":    {256 << 20, 50},
		"a large one still has a quarter of all": {8 << 30, 25},
	} {
		t.Run(name, func(t *testing.T) {
			if got := percentFor(row.live); got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
		})
	}
}

func TestMemoryKeeper_GivesBackWhatManyLeaveBehind(t *testing.T) {
	var live, goroutines uint64
	var percents []int
	given := 0
	k := &memoryKeeper{
		use:        func() (uint64, uint64) { return live, goroutines },
		setPercent: func(percent int) { percents = append(percents, percent) },
		giveBack:   func() { given++ },
		percent:    mostPercent,
	}
	for _, period := range []struct {
		why              string
		live, goroutines uint64
		given            int
	}{
		{"a few are no storm", 10 << 20, 150, 0},
		{"agents come", 60 << 20, 9_000, 0},
		{"and still come", 260 << 20, 70_000, 0},
		{"all are there", 500 << 20, 70_050, 1},
		{"once is enough", 500 << 20, 70_020, 1},
		{"one comes", 501 << 20, 70_027, 1},
		{"half of them go", 500 << 20, 35_000, 1},
		{"and are gone", 260 << 20, 35_000, 2},
	} {
		live, goroutines = period.live, period.goroutines
		k.look()
		if given != period.given {
			t.Errorf("%s: memory was given back %d times, want %d", period.why, given, period.given)
		}
	}
	if want := []int{49, 25, 49}; !slices.Equal(percents, want) {
		t.Errorf("shares of garbage: %v, want %v", percents, want)
	}
}

func TestMemoryInUse(t *testing.T) {
	if _, goroutines := memoryInUse(); goroutines == 0 {
		t.Error("there is none, and this is one")
	}
}
