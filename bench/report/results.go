package report

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/kas-agentk/kas/bench/contender"
	"github.com/kas-agentk/kas/bench/plane"
	"github.com/kas-agentk/kas/bench/scale"
)

// Results of one run of the benchmarks.
type Results struct {
	Date     time.Time         `json:"date"`
	Quick    bool              `json:"quick"`
	Repeats  int               `json:"repeats"`
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Cases    []Case            `json:"cases"`
	Agentk   []scale.Figures   `json:"agentk"`
	Budgets  []Budget          `json:"budgets"`
}

// Case is what all contenders did with one kind of set.
type Case struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Objects int    `json:"objects"`
	Rows    []Row  `json:"rows"`
}

// Row is one contender in one phase.
type Row struct {
	Phase     contender.Phase `json:"phase"`
	Contender string          `json:"contender"`
	Runs      []Run           `json:"runs"`
}

// Run is one measurement.
type Run struct {
	contender.Figures

	// Requests that the API server got, by verb.
	Requests plane.Requests `json:"requests"`
}

// Add records a run.
func (c *Case) Add(phase contender.Phase, name string, run Run) {
	for i := range c.Rows {
		if c.Rows[i].Phase == phase && c.Rows[i].Contender == name {
			c.Rows[i].Runs = append(c.Rows[i].Runs, run)
			return
		}
	}
	c.Rows = append(c.Rows, Row{Phase: phase, Contender: name, Runs: []Run{run}})
}

// row of a contender in a phase; nil: there is none.
func (c *Case) row(phase contender.Phase, name string) *Row {
	for i := range c.Rows {
		if c.Rows[i].Phase == phase && c.Rows[i].Contender == name {
			return &c.Rows[i]
		}
	}
	return nil
}

// failed is why there are no figures; empty: there are.
func (r *Row) failed() string {
	for i := range r.Runs {
		if r.Runs[i].Error != "" {
			return r.Runs[i].Error
		}
	}
	return ""
}

// median, least and most of a figure over all runs.
func (r *Row) median(of func(Run) float64) (median, least, most float64) {
	values := make([]float64, 0, len(r.Runs))
	for i := range r.Runs {
		values = append(values, of(r.Runs[i]))
	}
	if len(values) == 0 {
		return 0, 0, 0
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]
}

func seconds(r Run) float64  { return r.Seconds }
func cpu(r Run) float64      { return r.CPUSeconds }
func grown(r Run) float64    { return float64(r.PeakBytes - r.BaseBytes) }
func requests(r Run) float64 { return float64(r.Requests.Total()) }

// WriteJSON stores the results.
func (r *Results) WriteJSON(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil { //nolint:gosec // for everybody to read
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
