package kasctl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// maxLine is the longest line of a watch, in bytes.
	maxLine = 64 << 20
	// silence is how long RoR may say nothing, not even an empty line.
	silence = time.Minute
	// pauseAfterBreak is how long to wait before a broken watch goes on.
	pauseAfterBreak = time.Second
)

var (
	errSilence = errors.New("RoR is silent")
	errCutOff  = errors.New("the watch was cut off")
)

// changes is one line of a watch.
type changes struct {
	Source  *clusterSource  `json:"source"`
	Columns []clusterColumn `json:"columns"`
	Reset   bool            `json:"reset"`
	Synced  bool            `json:"synced"`
	Cursor  string          `json:"cursor"`
	Events  []change        `json:"events"`
	// Error is why the watch ends.
	Error *struct {
		Status  int    `json:"status"`
		Message string `json:"message"`
	} `json:"error"`
}

type change struct {
	Type string      `json:"type"`
	Item clusterItem `json:"item"`
}

// runWatch shows what is there and then every change, until ctx ends. A watch that is cut
// off goes on where it was; what happened meanwhile is shown then.
func (g *getOptions) runWatch(ctx context.Context, c *client, a *agent, out io.Writer) error {
	f := &follower{getOptions: g, out: out, known: map[objectKey]clusterItem{}}
	said := ""
	for {
		err := f.follow(ctx, c, a)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is how watching ends
		}
		if err != nil && (f.cursor == "" || !errors.As(err, &passingError{})) {
			return err
		}
		if err == nil || errors.Is(err, errCutOff) { // RoR ends a watch now and then
			said = ""
		} else if text := err.Error(); text != said {
			said = text
			fmt.Fprintln(g.errs, "waiting: "+oneLine(text))
		}
		timer := g.clock.NewTimer(pauseAfterBreak)
		select {
		case <-ctx.Done():
		case <-timer.C():
		}
		timer.Stop()
	}
}

// follow takes one watch to its end.
func (f *follower) follow(ctx context.Context, c *client, a *agent) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilence) })
	defer watchdog.Stop()
	query := f.query()
	if f.name != "" {
		query.Set("field_selector", "metadata.name="+f.name)
	}
	query.Set("watch", "true")
	if f.cursor != "" {
		query.Set("cursor", f.cursor)
	}
	resp, err := c.send(ctx, http.MethodGet, query, nil, f.path(a))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	if resp.StatusCode != http.StatusOK {
		body, err := c.readAll(resp)
		if err != nil {
			return err
		}
		return refusal(c.explain(resp, messageOf(body)))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		watchdog.Reset(silence)
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := f.take(lines.Bytes()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(context.Cause(ctx), errSilence) {
			err = errSilence
		}
		return passingError{fmt.Errorf("%w: %w", errCutOff, err)}
	}
	return nil
}

// objectKey tells one object of a resource from others.
type objectKey struct{ namespace, name string }

// follower shows what a watch tells, and knows what it has shown.
type follower struct {
	*getOptions
	out     io.Writer
	printer *printer
	kind    string
	cursor  string
	// known is what has been shown and is not deleted.
	known map[objectKey]clusterItem
	// fresh is what there is, while a watch that began anew tells it; else nil.
	fresh map[objectKey]bool
	// pending is what is to be shown once all of it is told.
	pending []change
}

// take takes one line.
func (f *follower) take(line []byte) error {
	told := changes{}
	if err := json.Unmarshal(line, &told); err != nil {
		return fmt.Errorf("line of a watch: %w", err)
	}
	if told.Error != nil {
		return f.toError(told.Error.Status, told.Error.Message)
	}
	if told.Source != nil {
		f.kind = told.Source.Kind
		f.remark(told.Source)
		if f.printer == nil {
			f.printer = f.newPrinter(f.out, told.Source, told.Columns)
		}
	}
	if told.Reset {
		f.fresh = map[objectKey]bool{}
	}
	for _, e := range told.Events {
		f.note(e)
	}
	if told.Synced {
		f.noteGone()
	}
	f.cursor = told.Cursor
	if f.fresh != nil {
		return nil // it goes on
	}
	shown := f.pending
	f.pending = nil
	return f.show(shown)
}

func (f *follower) toError(status int, message string) error {
	err := &refusedError{message, status}
	if status == http.StatusTooManyRequests || status >= http.StatusInternalServerError {
		return passingError{err}
	}
	return err
}

// note has a change shown, unless it is known.
func (f *follower) note(e change) {
	key := objectKey{e.Item.Namespace, e.Item.Name}
	if f.fresh != nil {
		f.fresh[key] = true
	}
	before, known := f.known[key]
	if e.Type == "DELETED" {
		if !known {
			return
		}
		if len(e.Item.Cells) == 0 { // as it was last seen
			e.Item.Cells = before.Cells
		}
		delete(f.known, key)
		delete(f.fresh, key)
	} else {
		if known && before.ResourceVersion == e.Item.ResourceVersion && f.fresh != nil {
			return
		}
		shown := e.Item
		shown.Object = nil // may be large
		f.known[key] = shown
	}
	f.pending = append(f.pending, e)
}

// noteGone notes what has been deleted while nobody looked.
func (f *follower) noteGone() {
	for key, item := range f.known {
		if f.fresh != nil && !f.fresh[key] {
			delete(f.known, key)
			f.pending = append(f.pending, change{"DELETED", item})
		}
	}
	f.fresh = nil
}

func (f *follower) show(all []change) error {
	switch f.output {
	case formatJSON, formatYAML:
		for _, e := range all {
			if err := f.showObject(e); err != nil {
				return err
			}
		}
		return nil
	case formatName:
		for _, e := range all {
			if err := writeLine(f.out, f.nameOf(f.kind, e.Item)); err != nil {
				return err
			}
		}
		return nil
	}
	items := make([]clusterItem, 0, len(all))
	for _, e := range all {
		items = append(items, e.Item)
	}
	if len(items) == 0 || f.printer == nil {
		return nil
	}
	return f.printer.add(items)
}

// showObject shows a change as a document of its own.
func (f *follower) showObject(e change) error {
	if f.output == formatYAML {
		if err := writeLine(f.out, "---"); err != nil {
			return err
		}
	}
	return writeDocument(f.out, f.output, map[string]any{"type": e.Type, "namespace": e.Item.Namespace, "name": e.Item.Name, "object": e.Item.Object})
}
