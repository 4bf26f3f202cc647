package report

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/bench/contender"
)

// phaseTitles are the phases in people's words.
var phaseTitles = map[contender.Phase]string{
	contender.Cold: "cold apply", contender.Unchanged: "unchanged",
	contender.Changed: "1 % changed", contender.Prune: "prune all",
}

// Markdown is the results for people.
func (r *Results) Markdown() string {
	var b strings.Builder
	b.WriteString("# Benchmark results\n\n")
	b.WriteString("Written by `make bench`. What is measured, and how, is in [docs/benchmarks.md](../docs/benchmarks.md).\n\n")
	if r.Quick {
		b.WriteString("A quick run: small sets, measured once. Its figures are not to be relied on.\n\n")
	}
	r.writeMachine(&b)
	r.writeCases(&b)
	r.writeAgentk(&b)
	r.writeBudgets(&b)
	return b.String()
}

func (r *Results) writeMachine(b *strings.Builder) {
	m := r.Machine
	fmt.Fprintf(b, "%s, %s, %d cores, %.0f GiB of memory, Linux %s, %s.\n",
		r.Date.UTC().Format("2006-01-02 15:04 MST"), m.CPU, m.Cores, float64(m.MemoryBytes)/(1<<30), m.Kernel, m.Go)
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		versions = append(versions, name+" "+r.Versions[name])
	}
	fmt.Fprintf(b, "%s.\n", strings.Join(versions, ", "))
	fmt.Fprintf(b, "Load average before the run: %.2f. Medians of %d.\n\n", m.Load, r.Repeats)
}

func (r *Results) writeCases(b *strings.Builder) {
	b.WriteString("| case | phase | contender | seconds (least-most) | of raw | objects/s | requests | CPU s | memory MiB |\n")
	b.WriteString("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for i := range r.Cases {
		c := &r.Cases[i]
		title := c.Title
		for _, phase := range contender.Phases() {
			phaseTitle := phaseTitles[phase]
			for _, name := range contender.Names() {
				row := c.row(phase, name)
				if row == nil {
					continue
				}
				fmt.Fprintf(b, "| %s | %s | %s |%s\n", title, phaseTitle, name, c.cells(row))
				title, phaseTitle = "", ""
			}
		}
	}
	b.WriteString("\n")
}

// cells of a row, from its seconds on.
func (c *Case) cells(row *Row) string {
	if why := row.failed(); why != "" {
		why, _, _ = strings.Cut(why, "\n")
		return fmt.Sprintf(" failed: %s | | | | | |", strings.ReplaceAll(why[:min(len(why), 160)], "|", "/"))
	}
	s, least, most := row.median(seconds)
	share := ""
	if of, ok := c.ofRaw(row.Phase, row.Contender); ok && of < 10 {
		share = percent(of)
	}
	n, _, _ := row.median(requests)
	used, _, _ := row.median(cpu)
	top, _, _ := row.median(grown)
	rate := ""
	if s > 0 && row.Phase != contender.Changed {
		rate = fmt.Sprintf("%.0f", float64(c.Objects)/s)
	}
	return fmt.Sprintf(" %s (%s-%s) | %s | %s | %.0f | %.2f | %.0f |",
		short(s), short(least), short(most), share, rate, n, used, top/mebibyte)
}

// short writes seconds with as many digits as mean something.
func short(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.3f", s)
	}
	return fmt.Sprintf("%.2f", s)
}

func (r *Results) writeAgentk(b *strings.Builder) {
	if len(r.Agentk) == 0 {
		return
	}
	b.WriteString("## The program agentk\n\n")
	b.WriteString("| | " + strings.Join(r.agentkCells(func(i int) string { return r.Agentk[i].Case }), " | ") + " |\n")
	b.WriteString("| --- |" + strings.Repeat(" ---: |", len(r.Agentk)) + "\n")
	mib := func(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/mebibyte) }
	for _, line := range []struct {
		title string
		cell  func(int) string
	}{
		{"cold: commit sent to all reported applied", func(i int) string { return short(r.Agentk[i].ColdSeconds) + " s" }},
		{"cold: peak memory", func(i int) string { return mib(r.Agentk[i].ColdPeakBytes) }},
		{"idle: memory", func(i int) string { return mib(r.Agentk[i].IdleBytes) }},
		{"unchanged: time", func(i int) string { return fmt.Sprintf("%.0f ms", r.Agentk[i].UnchangedSeconds*1000) }},
		{"unchanged: CPU, receiving and reporting included", func(i int) string { return fmt.Sprintf("%.0f ms", r.Agentk[i].UnchangedCPUSeconds*1000) }},
		{"unchanged: requests", func(i int) string { return strconv.Itoa(r.Agentk[i].UnchangedRequests.Total()) }},
		{"restart: start to all reported", func(i int) string { return short(r.Agentk[i].RestartSeconds) + " s" }},
		{"restart: CPU", func(i int) string { return fmt.Sprintf("%.2f s", r.Agentk[i].RestartCPUSeconds) }},
		{"restart: peak memory", func(i int) string { return mib(r.Agentk[i].RestartPeakBytes) }},
		{"restart: requests (of them writes)", func(i int) string {
			q := r.Agentk[i].RestartRequests
			return fmt.Sprintf("%d (%d)", q.Total(), q.Writes())
		}},
		{"drift: p50 / p99 / most", func(i int) string {
			d := r.Agentk[i].Drift
			if d == nil {
				return ""
			}
			if d.Error != "" {
				return "failed: " + d.Error
			}
			return fmt.Sprintf("%.1f / %.1f / %.1f ms of %d", d.P50ms, d.P99ms, d.MaxMs, d.Edits)
		}},
	} {
		b.WriteString("| " + line.title + " | " + strings.Join(r.agentkCells(line.cell), " | ") + " |\n")
	}
	fmt.Fprintf(b, "\nIdle is %.0f s after the last object was applied.\n\n", r.Agentk[0].SettleSeconds)
}

func (r *Results) agentkCells(cell func(int) string) []string {
	cells := make([]string, len(r.Agentk))
	for i := range r.Agentk {
		cells[i] = cell(i)
	}
	return cells
}

func (r *Results) writeBudgets(b *strings.Builder) {
	b.WriteString("## Budgets\n\n| what | must | measured | holds |\n| --- | --- | ---: | --- |\n")
	for _, budget := range r.Budgets {
		holds := "yes"
		if !budget.Holds {
			holds = "**no**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", budget.What, budget.Must, budget.Measured, holds)
	}
}
