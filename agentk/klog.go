package agentk

import (
	"fmt"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// klogSink has what client-go logs through klog appear in the agent's own log: its
// errors as warnings, because client-go goes on after them, all else at debug.
type klogSink struct {
	log *zap.Logger
}

var _ logr.LogSink = klogSink{}

// maxKlogVerbosity is the highest verbosity of klog that is taken.
const maxKlogVerbosity = 3

// newKlogger returns a logger for klog.SetLogger.
func newKlogger(log *zap.Logger) logr.Logger {
	return logr.New(klogSink{log: log.Named("client-go")})
}

// Init implements logr.LogSink.
func (s klogSink) Init(logr.RuntimeInfo) {}

// Enabled implements logr.LogSink.
func (s klogSink) Enabled(level int) bool {
	return level <= maxKlogVerbosity && s.log.Core().Enabled(zapcore.DebugLevel)
}

// Info implements logr.LogSink.
func (s klogSink) Info(_ int, msg string, keysAndValues ...any) {
	s.log.Debug(msg, fields(keysAndValues)...)
}

// Error implements logr.LogSink.
func (s klogSink) Error(err error, msg string, keysAndValues ...any) {
	s.log.Warn(msg, append(fields(keysAndValues), zap.Error(err))...)
}

// WithValues implements logr.LogSink.
func (s klogSink) WithValues(keysAndValues ...any) logr.LogSink {
	return klogSink{log: s.log.With(fields(keysAndValues)...)}
}

// WithName implements logr.LogSink.
func (s klogSink) WithName(name string) logr.LogSink {
	return klogSink{log: s.log.Named(name)}
}

func fields(keysAndValues []any) []zap.Field {
	var fields []zap.Field
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		fields = append(fields, zap.Any(fmt.Sprint(keysAndValues[i]), keysAndValues[i+1]))
	}
	return fields
}
