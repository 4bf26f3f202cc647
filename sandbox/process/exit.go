package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sync/errgroup"
)

const (
	// tailBytes and tailLines bound how much of a log an error carries.
	tailBytes = 8 << 10
	tailLines = 40
)

// ExitError tells of a program that ended otherwise than it was asked to.
type ExitError struct {
	// Name of the process.
	Name string
	// Status in words: "exit status 1", "signal: killed".
	Status string
	// Signal that ended it, or zero.
	Signal syscall.Signal
	// LogFile is where the whole log is, and Tail the end of this run's part of it.
	LogFile string
	Tail    string
}

// Error implements error. It has several lines where the program wrote something.
func (e *ExitError) Error() string {
	if e.Tail == "" {
		return fmt.Sprintf("%s ended: %s, without a word in its log", e.Name, e.Status)
	}
	return fmt.Sprintf("%s ended: %s; its log (%s) ends:\n%s", e.Name, e.Status, e.LogFile, e.Tail)
}

// Watch returns the *ExitError of the first process that ends without having been
// asked to. It returns ctx's error when ctx ends first. A process that is stopped
// or killed through its methods, or started again, is of no concern.
func Watch(ctx context.Context, processes ...*Process) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range processes {
		group.Go(func() error {
			select {
			case err := <-p.Failed():
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	return group.Wait()
}

// tail is the end of what was written to a file since the offset, in whole lines.
// It is empty where there is nothing to read.
func tail(path string, since int64) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close() //nolint:errcheck // read only
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	from := max(since, info.Size()-tailBytes)
	data, err := io.ReadAll(io.NewSectionReader(file, from, tailBytes))
	if err != nil {
		return ""
	}
	if from > since { // it begins inside a line
		if _, rest, found := bytes.Cut(data, []byte("\n")); found {
			data = rest
		}
	}
	lines := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	lines = lines[max(0, len(lines)-tailLines):]
	return string(bytes.Join(lines, []byte("\n")))
}
