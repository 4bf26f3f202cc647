package report

import (
	"fmt"
	"strconv"

	"github.com/kas-agentk/kas/bench/contender"
)

// Budget is something that the project promises.
type Budget struct {
	What     string `json:"what"`
	Must     string `json:"must"`
	Measured string `json:"measured"`
	Holds    bool   `json:"holds"`
}

const mebibyte = 1 << 20

// Judge fills in the budgets, of what was measured.
func (r *Results) Judge() {
	r.Budgets = nil
	for i := range r.Cases {
		r.judgeCase(&r.Cases[i])
	}
	for i := range r.Agentk {
		f := &r.Agentk[i]
		if f.Objects < 10_000 {
			continue
		}
		peak, idle := float64(f.ColdPeakBytes)/mebibyte, float64(f.IdleBytes)/mebibyte
		r.judge(f.Case+": agentk's peak memory during a cold apply", "<= 150 MiB", fmt.Sprintf("%.0f MiB", peak), peak <= 150)
		r.judge(f.Case+": agentk's memory when idle", "<= 100 MiB", fmt.Sprintf("%.0f MiB", idle), idle <= 100)
		n := f.UnchangedRequests.Total()
		r.judge(f.Case+": agentk, unchanged, API requests", "0", strconv.Itoa(n), n == 0)
		writes := f.RestartRequests.Writes()
		r.judge(f.Case+": agentk, restarted, API writes", "0", strconv.Itoa(writes), writes == 0)
	}
	for i := range r.Agentk {
		if d := r.Agentk[i].Drift; d != nil {
			r.judge(r.Agentk[i].Case+": drift healed, p50", "<= 25 ms", fmt.Sprintf("%.1f ms", d.P50ms), d.Error == "" && d.P50ms <= 25)
		}
	}
}

func (r *Results) judge(what, must, measured string, holds bool) {
	r.Budgets = append(r.Budgets, Budget{What: what, Must: must, Measured: measured, Holds: holds})
}

// judgeCase judges by ratios within one run of the benchmarks.
func (r *Results) judgeCase(c *Case) {
	if row := c.row(contender.Unchanged, contender.Ours); row != nil && row.failed() == "" {
		n, _, _ := row.median(requests)
		r.judge(c.Title+": unchanged, API requests", "0", fmt.Sprintf("%.0f", n), n == 0)
		if c.Objects == 10_000 {
			s, _, _ := row.median(cpu)
			r.judge(c.Title+": unchanged, CPU", "<= 100 ms", fmt.Sprintf("%.0f ms", s*1000), s <= 0.1)
		}
	}
	if share, ok := c.ofRaw(contender.Cold, contender.Ours); ok {
		r.judge(c.Title+": cold apply, share of the raw limit", ">= 80 %", exact(share), share >= 0.8)
	}
	if share, ok := c.ofRaw(contender.Prune, contender.Ours); ok {
		r.judge(c.Title+": prune, share of the raw limit", ">= 60 %", exact(share), share >= 0.6)
	}
	r.judgeChanged(c)
}

// aboutOnePercent is how much of a cold apply the change of 1 % of a set may cost. Few
// requests keep no server busy: beside their share stands what they cost a client that
// does nothing else.
const aboutOnePercent = 0.02

func (r *Results) judgeChanged(c *Case) {
	cold, warm := c.row(contender.Cold, contender.Ours), c.row(contender.Changed, contender.Ours)
	if cold == nil || warm == nil || cold.failed() != "" || warm.failed() != "" {
		return
	}
	judge := func(what string, figure func(Run) float64, aside string) {
		all, _, _ := cold.median(figure)
		few, _, _ := warm.median(figure)
		r.judge(c.Title+": 1 % changed, "+what+" of a cold apply", "about 1 %, at most 2 %", exact(few/all)+aside, few <= aboutOnePercent*all)
	}
	judge("requests", requests, "")
	aside := ""
	if raw := c.row(contender.Changed, contender.Raw); raw != nil && raw.failed() == "" {
		all, _, _ := cold.median(seconds)
		few, _, _ := raw.median(seconds)
		aside = fmt.Sprintf(" (raw: %s)", exact(few/all))
	}
	judge("time", seconds, aside)
}

// ofRaw is how fast a contender is as a share of the raw limit; false: not known.
func (c *Case) ofRaw(phase contender.Phase, name string) (float64, bool) {
	row, limit := c.row(phase, name), c.row(phase, contender.Raw)
	if row == nil || limit == nil || row.failed() != "" || limit.failed() != "" {
		return 0, false
	}
	// Each repeat has both, one soon after the other: what else the machine did
	// meanwhile hits both.
	var shares Row
	for i := range min(len(row.Runs), len(limit.Runs)) {
		if row.Runs[i].Seconds > 0 {
			shares.Runs = append(shares.Runs, Run{Figures: contender.Figures{
				Seconds: limit.Runs[i].Seconds / row.Runs[i].Seconds,
			}})
		}
	}
	share, _, _ := shares.median(seconds)
	return share, len(shares.Runs) > 0
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", share*100) }

// exact is percent for where it is close to a limit.
func exact(share float64) string { return fmt.Sprintf("%.1f %%", share*100) }
