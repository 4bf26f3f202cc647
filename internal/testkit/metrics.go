package testkit

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// writeDocs is a variable of the environment that has MetricsDocumented write what it would
// compare.
const writeDocs = "WRITE_METRICS_DOCS"

// description is what a metric says of itself; prometheus has no other way to ask.
var description = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "(.*)", constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// MetricsDocumented fails unless the table of a program in the Markdown file, which is below
// the heading "## <program>", has exactly the metrics that the program registers with names
// that begin with its own, each with its labels and what it tells.
func MetricsDocumented(tb testing.TB, registered prometheus.Collector, file, program string) {
	tb.Helper()
	rows := []string{"| metric | labels | what it tells |", "| --- | --- | --- |"}
	rows = append(rows, rowsOf(tb, registered, program+"_")...)
	content, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	heading := "\n## " + program + "\n\n"
	before, rest, found := strings.Cut(string(content), heading)
	if !found {
		tb.Fatalf("%s has no heading %q", file, strings.TrimSpace(heading))
	}
	table, after := rest, ""
	if end := strings.Index(rest, "\n\n"); end >= 0 {
		table, after = rest[:end], rest[end:]
	}
	want := strings.Join(rows, "\n")
	mentioned(tb, filepath.Dir(file), program, want)
	if strings.TrimSpace(table) == want {
		return
	}
	if os.Getenv(writeDocs) != "" {
		if after == "" {
			want += "\n"
		}
		if err := os.WriteFile(file, []byte(before+heading+want+after), 0o600); err != nil {
			tb.Fatal(err)
		}
		return
	}
	for _, row := range rows {
		if !strings.Contains(table+"\n", row+"\n") {
			tb.Errorf("%s lacks this: %s", file, row)
		}
	}
	for row := range strings.Lines(table) {
		if row = strings.TrimSpace(row); !slices.Contains(rows, row) {
			tb.Errorf("%s has this, which is no metric any more: %s", file, row)
		}
	}
	tb.Errorf("the order may differ as well; write the tables anew with %s=1 go test -run Documented ./kas ./agentk ./ror", writeDocs)
}

// series are what the names of a histogram's series end in.
var series = regexp.MustCompile(`_(bucket|sum|count)$`)

// mentioned fails where a document of the folder speaks of a metric that is not in the table.
func mentioned(tb testing.TB, folder, program, table string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.md"))
	if err != nil {
		tb.Fatal(err)
	}
	name := regexp.MustCompile("`(" + program + "_[a-z0-9_]+)")
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(content), -1) {
			if !strings.Contains(table, "| `"+series.ReplaceAllString(m[1], "")+"` |") {
				tb.Errorf("%s speaks of %s, which %s does not have", file, m[1], program)
			}
		}
	}
}

// rowsOf are the metrics whose names begin so, ordered.
func rowsOf(tb testing.TB, registered prometheus.Collector, prefix string) []string {
	tb.Helper()
	all := make(chan *prometheus.Desc)
	go func() {
		defer close(all)
		registered.Describe(all)
	}()
	var rows []string
	for d := range all {
		m := description.FindStringSubmatch(d.String())
		switch {
		case m == nil:
			tb.Errorf("%s is not described as expected", d)
		case strings.HasPrefix(m[1], prefix):
			labels := strings.ReplaceAll(m[3], ",", ", ")
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", m[1], labels, strings.TrimSuffix(strings.ReplaceAll(m[2], `\"`, `"`), ".")))
		}
	}
	slices.Sort(rows)
	return slices.Compact(rows)
}
