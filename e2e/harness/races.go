package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// raceMark is what the race detector writes before a report.
var raceMark = []byte("WARNING: DATA RACE")

// dataRaces looks for reports of the race detector in all logs below dir. The
// error shows the first of each log.
func dataRaces(dir string) error {
	var races []error
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return err
		}
		log, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if at := bytes.Index(log, raceMark); at >= 0 {
			races = append(races, fmt.Errorf("%s:\n%s", path, log[at:min(len(log), at+6000)]))
		}
		return nil
	})
	return errors.Join(append(races, err)...)
}
