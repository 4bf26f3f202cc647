package logging

import (
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestOptions_New(t *testing.T) {
	for name, row := range map[string]struct {
		options Options
		want    string
	}{
		"the default":       {DefaultOptions(), ""},
		"for a terminal":    {Options{Format: "console", Level: "debug"}, ""},
		"an unknown format": {Options{Format: "xml", Level: "info"}, `--log-format: unknown format "xml", want json or console`},
		"an unknown level":  {Options{Format: "json", Level: "loud"}, `--log-level: unrecognized level: "loud"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := row.options.New()
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestOptions_New_LevelMayChange(t *testing.T) {
	o := DefaultOptions()
	log, level, err := o.New()
	if err != nil {
		t.Fatal(err)
	}
	if log.Core().Enabled(zap.DebugLevel) {
		t.Error("debug is on by default")
	}
	level.SetLevel(zap.DebugLevel)
	if !log.Core().Enabled(zap.DebugLevel) {
		t.Error("debug is still off")
	}
}
