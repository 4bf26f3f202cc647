// Package logging builds the zap loggers of all programs and names the fields
// that several rooms log, so that one query over the logs finds them all.
package logging

import (
	"fmt"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Options is how a program logs. The zero value is not usable: see DefaultOptions.
type Options struct {
	// Format is "json" or "console".
	Format string
	// Level is "debug", "info", "warn" or "error".
	Level string
}

// DefaultOptions is JSON at level info.
func DefaultOptions() Options {
	return Options{Format: "json", Level: "info"}
}

// AddFlags registers --log-format and --log-level.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Format, "log-format", o.Format, "format of the log on standard error: json or console")
	flags.StringVar(&o.Level, "log-level", o.Level, "lowest level that is logged: debug, info, warn or error")
}

// New builds a logger that writes to standard error. The returned level may be
// changed while the logger is in use.
func (o *Options) New() (*zap.Logger, zap.AtomicLevel, error) {
	level, err := zap.ParseAtomicLevel(o.Level)
	if err != nil {
		return nil, zap.AtomicLevel{}, fmt.Errorf("--log-level: %w", err)
	}
	cfg := zap.NewProductionConfig()
	cfg.Level = level
	cfg.Sampling = nil // a founder looking for one line must find it
	cfg.DisableStacktrace = true
	cfg.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncoderConfig.TimeKey = "time"
	switch o.Format {
	case "json":
	case "console":
		cfg.Encoding = "console"
		cfg.EncoderConfig.EncodeLevel = zapcore.CapitalLevelEncoder
	default:
		return nil, zap.AtomicLevel{}, fmt.Errorf("--log-format: unknown format %q, want json or console", o.Format)
	}
	log, err := cfg.Build()
	if err != nil {
		return nil, zap.AtomicLevel{}, fmt.Errorf("build logger: %w", err)
	}
	return log, level, nil
}

// AgentID is the number that RoR gave an agent.
func AgentID(id int64) zap.Field { return zap.Int64("agent_id", id) }

// Project is a manifest project as the agent's configuration names it.
func Project(id string) zap.Field { return zap.String("project", id) }

// Commit is a Git commit ID.
func Commit(id string) zap.Field { return zap.String("commit", id) }
