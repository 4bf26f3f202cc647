package report

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/bench/contender"
	"github.com/kas-agentk/kas/bench/plane"
)

func run(seconds float64, requests int) Run {
	return Run{
		Figures:  contender.Figures{Seconds: seconds, CPUSeconds: seconds / 2, PeakBytes: 100 << 20, BaseBytes: 60 << 20},
		Requests: plane.Requests{"patch": requests},
	}
}

func example(cold float64) *Results {
	c := Case{Name: "x", Title: "1,000 things", Objects: 1000}
	for range 3 {
		c.Add(contender.Cold, contender.Raw, run(0.8, 1000))
		c.Add(contender.Cold, contender.Ours, run(cold, 1004))
		c.Add(contender.Unchanged, contender.Ours, run(0.002, 0))
		c.Add(contender.Changed, contender.Ours, run(0.01, 12))
	}
	c.Add(contender.Cold, contender.FluxSSA, Run{Figures: contender.Figures{Error: "refused\nmore"}})
	r := &Results{Repeats: 3, Cases: []Case{c}}
	r.Judge()
	return r
}

func TestJudge_TellsWhatHoldsFromWhatDoesNot(t *testing.T) {
	for _, b := range example(0.9).Budgets {
		require.True(t, b.Holds, b.What)
	}
	missed := map[string]string{}
	for _, b := range example(1.6).Budgets {
		if !b.Holds {
			missed[b.What] = b.Measured
		}
	}
	require.Equal(t, map[string]string{"1,000 things: cold apply, share of the raw limit": "50.0 %"}, missed)
}

func TestJudge_SaysWhatAFewRequestsCostABareClient(t *testing.T) {
	c := Case{Title: "1,000 things", Objects: 1000}
	c.Add(contender.Cold, contender.Ours, run(1, 1000))
	c.Add(contender.Changed, contender.Raw, run(0.015, 10))
	c.Add(contender.Changed, contender.Ours, run(0.021, 11))
	r := &Results{Cases: []Case{c}}
	r.Judge()
	require.Equal(t, []Budget{
		{What: "1,000 things: 1 % changed, requests of a cold apply", Must: "about 1 %, at most 2 %", Measured: "1.1 %", Holds: true},
		{What: "1,000 things: 1 % changed, time of a cold apply", Must: "about 1 %, at most 2 %", Measured: "2.1 % (raw: 1.5 %)"},
	}, r.Budgets)
}

func TestMarkdown_ShowsMediansAndFailures(t *testing.T) {
	text := example(1).Markdown()
	require.Contains(t, text, "| 1,000 things | cold apply | raw | 0.800 (0.800-0.800) | 100 % | 1250 | 1000 | 0.40 | 40 |\n")
	require.Contains(t, text, "|  |  | ours | 1.00 (1.00-1.00) | 80 % | 1000 | 1004 | 0.50 | 40 |\n")
	require.Contains(t, text, "|  |  | flux-ssa | failed: refused | | | | | |\n")
}
