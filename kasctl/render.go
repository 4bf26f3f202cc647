package kasctl

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// The formats of --output.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

var formats = []string{formatTable, formatWide, formatJSON, formatYAML}

// cellWidth is where a message in a table is cut, in characters.
const cellWidth = 100

func checkFormat(format string) error {
	if !slices.Contains(formats, format) {
		return fmt.Errorf("--output %q: want one of %s", format, strings.Join(formats, ", "))
	}
	return nil
}

func isTable(format string) bool { return format == formatTable || format == formatWide }

// writeDocument writes v as JSON or YAML, with sorted keys.
func writeDocument(out io.Writer, format string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", format, err)
	}
	if format == formatYAML {
		data, err = yaml.JSONToYAML(data)
	} else {
		data, err = sortedJSON(data)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", format, err)
	}
	if _, err := out.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", format, err)
	}
	return nil
}

// sortedJSON indents JSON and sorts its keys.
func sortedJSON(data []byte) ([]byte, error) {
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, err //nolint:wrapcheck // writeDocument does
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return nil, err //nolint:wrapcheck // writeDocument does
	}
	return []byte(b.String()), nil
}

// table collects rows and writes them aligned.
type table struct {
	rows [][]string
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(out io.Writer) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, cells := range t.rows {
		line := make([]string, len(cells))
		for i, c := range cells {
			line[i] = oneLine(c)
			if line[i] == "" && i < len(cells)-1 {
				line[i] = "-"
			}
		}
		// A builder takes everything.
		_, _ = fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	_ = w.Flush()
	for line := range strings.Lines(b.String()) {
		if err := writeLine(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func kindName(id *syncstatus.ObjectID) string {
	if id.GetGroup() == "" {
		return id.GetKind()
	}
	return id.GetKind() + "." + id.GetGroup()
}

// sourced is what comes from a line of a file.
type sourced interface {
	GetSourcePath() string
	GetSourceLine() uint32
}

func sourceOf(o sourced) string {
	if o.GetSourcePath() == "" || o.GetSourceLine() == 0 {
		return o.GetSourcePath()
	}
	return fmt.Sprintf("%s:%d", o.GetSourcePath(), o.GetSourceLine())
}

func fileError(e *syncstatus.FileError) string {
	switch {
	case e.GetPath() == "":
		return e.GetMessage()
	case e.GetLine() == 0:
		return fmt.Sprintf("%s: %s", e.GetPath(), e.GetMessage())
	default:
		return fmt.Sprintf("%s:%d: %s", e.GetPath(), e.GetLine(), e.GetMessage())
	}
}

func projectName(p *syncstatus.ProjectStatus) string {
	return cmp.Or(p.GetProjectPath(), p.GetProjectId())
}

// stateName spells STATE_SYNCED "Synced".
func stateName(s syncstatus.State) string { return enumName(s.String(), "STATE_") }

func enumName(name, prefix string) string {
	name = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", " "))
	if name == "unspecified" || name == "" {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

func count(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// short is a commit ID as people write it.
func short(commit string) string { return commit[:min(len(commit), 8)] }

// oneLine makes text fit for one line of a terminal: what others wrote must not
// move the cursor.
func oneLine(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text))
}

// clip cuts text to at most n characters.
func clip(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n-1]) + "…"
}

func writeLine(out io.Writer, line string) error {
	if _, err := fmt.Fprintln(out, line); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
