package agentk

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zapgrpc"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"github.com/kas-agentk/kas/api/agentcfg"
)

// logLevels are the levels of the agent's log, which follow the configuration.
type logLevels struct {
	log *zap.Logger
	// own is the level of the agent's own log, grpc that of the gRPC library's.
	own, grpc zap.AtomicLevel
	// flag is what own is where the configuration says nothing.
	flag zapcore.Level
}

func newLogLevels(log *zap.Logger, own zap.AtomicLevel) *logLevels {
	return &logLevels{log: log, own: own, grpc: zap.NewAtomicLevelAt(zapcore.ErrorLevel), flag: own.Level()}
}

// captureLogs has the process's libraries log to the agent's own log. It is for Main
// alone: the libraries want it once, before they are used.
func captureLogs(levels *logLevels) {
	klog.SetLogger(newKlogger(levels.log))
	grpclog.SetLoggerV2(zapgrpc.NewLogger(levels.log.Named("grpc").WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return levelled{Core: core, level: levels.grpc}
	}))))
}

// apply takes the levels from the configuration.
func (l *logLevels) apply(o *agentcfg.Observability) {
	own, grpc := l.flag, zapcore.ErrorLevel
	if o.GetLogging() != nil {
		own = zapLevel(o.GetLogging().GetLevel())
		if o.GetLogging().GrpcLevel != nil {
			grpc = zapLevel(o.GetLogging().GetGrpcLevel())
		}
	}
	if own != l.own.Level() {
		l.log.Info("Log level changed", zap.Stringer("from", l.own.Level()), zap.Stringer("to", own))
	}
	l.own.SetLevel(own)
	l.grpc.SetLevel(grpc)
}

func zapLevel(level agentcfg.LogLevel) zapcore.Level {
	switch level {
	case agentcfg.LogLevel_debug:
		return zapcore.DebugLevel
	case agentcfg.LogLevel_warn:
		return zapcore.WarnLevel
	case agentcfg.LogLevel_error:
		return zapcore.ErrorLevel
	case agentcfg.LogLevel_info:
	}
	return zapcore.InfoLevel
}

// levelled is a core with a further level of its own, which may change.
type levelled struct {
	zapcore.Core
	level zap.AtomicLevel
}

// Enabled implements zapcore.LevelEnabler.
func (c levelled) Enabled(level zapcore.Level) bool {
	return c.level.Enabled(level) && c.Core.Enabled(level)
}

// With implements zapcore.Core.
func (c levelled) With(fields []zapcore.Field) zapcore.Core {
	return levelled{Core: c.Core.With(fields), level: c.level}
}

// Check implements zapcore.Core.
func (c levelled) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.level.Enabled(entry.Level) {
		return checked
	}
	return c.Core.Check(entry, checked)
}
