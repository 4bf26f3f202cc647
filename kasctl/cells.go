package kasctl

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// minWidth and gap are kubectl's: how wide a column is at least, and how far the
	// next one is from the longest cell, in characters.
	minWidth, gap = 6, 3
	// staleAfter is how old an answer must be to be worth a remark: of a quiet resource
	// the API server lets hear once a minute.
	staleAfter = 2 * time.Minute
)

// write writes a list as --output says.
func (g *getOptions) write(out io.Writer, list *clusterList) error {
	switch g.output {
	case formatJSON, formatYAML:
		objects := []json.RawMessage{}
		for _, item := range list.Items {
			objects = append(objects, item.Object)
		}
		return writeDocument(out, g.output, map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	case formatName:
		for _, item := range list.Items {
			if err := writeLine(out, g.nameOf(list.Source.Kind, item)); err != nil {
				return err
			}
		}
		return nil
	}
	return g.newPrinter(out, &list.Source, list.Columns).add(list.Items)
}

// nameOf is what kubectl takes for an object's name: "deployment.apps/shop".
func (g *getOptions) nameOf(kind string, item clusterItem) string {
	name := strings.ToLower(kind)
	if g.resource.Group != "" {
		name += "." + g.resource.Group
	}
	return oneLine(name + "/" + item.Name)
}

// remark says what is odd about an answer, where it does not mix with it.
func (g *getOptions) remark(source *clusterSource) {
	if source.Redacted && (g.output == formatJSON || g.output == formatYAML) {
		fmt.Fprintln(g.errs, "The values of Secrets are left out.")
	}
	if age := g.clock.Since(source.CurrentAt); !source.CurrentAt.IsZero() && age > staleAfter {
		fmt.Fprintf(g.errs, "As of %s ago: the agent has not heard of the API server since.\n", age.Round(time.Second))
	}
}

// printer prints tables of the same columns, one after another, as one: columns grow
// with their cells and never shrink.
type printer struct {
	out        io.Writer
	header     []string
	shown      []int // columns
	namespaced bool
	widths     []int
	begun      bool
}

func (g *getOptions) newPrinter(out io.Writer, source *clusterSource, columns []clusterColumn) *printer {
	p := &printer{out: out, namespaced: source.Namespaced && g.namespace == "", begun: g.noHeaders}
	if p.namespaced {
		p.header = append(p.header, "NAMESPACE")
	}
	for i, column := range columns {
		if column.Priority == 0 || g.output == formatWide {
			p.shown = append(p.shown, i)
			p.header = append(p.header, strings.ToUpper(column.Name))
		}
	}
	return p
}

// add prints further rows.
func (p *printer) add(items []clusterItem) error {
	rows := make([][]string, 0, len(items)+1)
	if !p.begun {
		p.begun = true
		rows = append(rows, p.header)
	}
	for _, item := range items {
		rows = append(rows, p.row(item))
	}
	return p.write(rows)
}

func (p *printer) row(item clusterItem) []string {
	var row []string
	if p.namespaced {
		row = append(row, item.Namespace)
	}
	if len(item.Cells) == 0 { // an object that is gone may have none left
		return append(row, item.Name)
	}
	for _, i := range p.shown {
		cell := ""
		if i < len(item.Cells) {
			cell = item.Cells[i]
		}
		row = append(row, cell)
	}
	return row
}

// write writes rows aligned. What others wrote does not reach the terminal raw.
func (p *printer) write(rows [][]string) error {
	for _, row := range rows {
		for i := range row {
			row[i] = oneLine(row[i])
			if i >= len(p.widths) {
				p.widths = append(p.widths, minWidth)
			}
			p.widths[i] = max(p.widths[i], utf8.RuneCountInString(row[i])+gap)
		}
	}
	var b strings.Builder
	for _, row := range rows {
		b.Reset()
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", p.widths[i]-utf8.RuneCountInString(cell)))
			}
		}
		if err := writeLine(p.out, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// columnIndex is where a column is among others, added at their end where it is not.
func columnIndex(columns *[]clusterColumn, column clusterColumn) int {
	i := slices.IndexFunc(*columns, func(c clusterColumn) bool { return c.Name == column.Name })
	if i < 0 {
		*columns = append(*columns, column)
		i = len(*columns) - 1
	}
	return i
}
