package agentk

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

func TestParseAddress(t *testing.T) {
	for _, row := range []struct {
		name, address, hostPort string
		webSocket, secure       bool
		err                     string
	}{
		{"plaintext", "grpc://kas.example:8150", "kas.example:8150", false, false, ""},
		{"TLS", "grpcs://kas.example:443", "kas.example:443", false, true, ""},
		{"IPv6", "grpc://[::1]:8150", "[::1]:8150", false, false, ""},
		{"a slash at the end", "grpc://kas.example:8150/", "kas.example:8150", false, false, ""},
		{"WebSocket over TLS, where URLs have it by default", "wss://kas.example/-/kas", "kas.example", true, true, ""},
		{"WebSocket on a port", "ws://kas.example:8150/-/kas", "kas.example:8150", true, false, ""},
		{"WebSocket without a path", "ws://kas.example:8150", "kas.example:8150", true, false, ""},
		{"WebSocket with a query", "wss://kas.example/-/kas?token=x", "", false, false, "want grpcs://"},
		{"WebSocket without a host", "wss:///-/kas", "", false, false, "want grpcs://"},
		{"a password", "wss://user:password@kas.example/", "", false, false, "want grpcs://"},
		{"no scheme", "kas.example:8150", "", false, false, "want grpcs://"},
		{"no port", "grpc://kas.example", "", false, false, "want grpcs://"},
		{"a path", "grpc://kas.example:1/x", "", false, false, "want grpcs://"},
		{"no host", "grpc://:8150", "", false, false, "want grpcs://"},
		{"not a URL", "grpc://%zz", "", false, false, "want grpcs://"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, err := parseAddress(row.address)
			if row.err != "" {
				require.ErrorContains(t, err, row.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.hostPort, a.url.Host)
			require.Equal(t, row.webSocket, a.webSocket)
			require.Equal(t, row.secure, a.secure)
		})
	}
}

func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct{ name, content, token, err string }{
		{"white space around it is ignored", "\n abc \r\n", "abc", ""},
		{"an empty file", " \n", "", "is empty: put the agent's token into it"},
		{"two lines", "abc\ndef", "", "holds more than a token"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(dir, "token")
			require.NoError(t, os.WriteFile(path, []byte(row.content), 0o600))
			token, err := readToken(path)
			if row.err != "" {
				require.ErrorContains(t, err, row.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.token, token)
		})
	}
	_, err := readToken(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestStateDir_IsOneProcessesOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	dir, err := openStateDir(path)
	require.NoError(t, err)
	_, err = openStateDir(path)
	require.ErrorContains(t, err, "is in use by another agentk")
	require.NoError(t, dir.Close())
	dir, err = openStateDir(path)
	require.NoError(t, err)
	require.NoError(t, dir.Close())
}

func TestIdentity(t *testing.T) {
	name, err := identity("pod-1", nil)
	require.NoError(t, err)
	require.Equal(t, "pod-1", name)

	one, err := identity("", nil)
	require.NoError(t, err)
	two, err := identity("", nil)
	require.NoError(t, err)
	require.NotEqual(t, one, two, "nowhere to keep it")

	dir, err := openStateDir(t.TempDir())
	require.NoError(t, err)
	defer func() { require.NoError(t, dir.Close()) }()
	one, err = identity("", dir)
	require.NoError(t, err)
	two, err = identity("", dir)
	require.NoError(t, err)
	require.Equal(t, one, two, "kept")
	require.NotEmpty(t, one)
}

func TestEngineProject_DefaultsAreTheSchemas(t *testing.T) {
	p, err := engineProject("5-10", project("a"))
	require.NoError(t, err)
	require.Equal(t, gitops.Project{
		Key: "5-10", DefaultNamespace: "default", Prune: true, Policy: inventory.PolicyMustMatch,
		Propagation: "Foreground", ReconcileTimeout: time.Hour, PruneTimeout: time.Hour,
		Guard:      gitops.Guard{MinObjects: 10, MaxPercent: 50},
		RecordLate: true,
	}, p)
}

func TestEngineProject_TakesWhatIsConfigured(t *testing.T) {
	p, err := engineProject("5-10", &agentcfg.ManifestProject{
		Id: "a", DefaultNamespace: "ns", Prune: proto.Bool(false), AllowEmpty: true, InventoryPolicy: "adopt_all",
		DryRunStrategy: "client", PrunePropagationPolicy: "orphan",
		ReconcileTimeout: durationpb.New(time.Minute), PruneTimeout: durationpb.New(time.Second),
	})
	require.NoError(t, err)
	require.Equal(t, gitops.Project{
		Key: "5-10", DefaultNamespace: "ns", AllowEmpty: true, Policy: inventory.PolicyAdoptAll, DryRun: gitops.DryRunClient,
		Propagation: "Orphan", ReconcileTimeout: time.Minute, PruneTimeout: time.Second,
		Guard:      gitops.Guard{MinObjects: 10, MaxPercent: 50},
		RecordLate: true,
	}, p)
	p, err = engineProject("5-10", &agentcfg.ManifestProject{
		Id: "a", Atomic: true, HealthChecks: []*agentcfg.HealthCheck{{Kind: "Widget", Current: "true"}},
		IgnoreFields: []*agentcfg.IgnoreFields{{Group: "apps", Kind: "Deployment", Fields: []string{"/spec/replicas"}}},
	})
	require.NoError(t, err)
	require.True(t, p.Atomic)
	require.Equal(t, []gitops.IgnoreRule{{Group: "apps", Kind: "Deployment", Fields: []string{"/spec/replicas"}}}, p.Ignore)
	_, _, ok := p.Health.Judge(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Widget"}})
	require.True(t, ok)
	_, err = engineProject("5-10", &agentcfg.ManifestProject{Id: "a", HealthChecks: []*agentcfg.HealthCheck{{Kind: "Widget", Current: "tru"}}})
	require.ErrorContains(t, err, "health_checks[0].current")
	_, err = engineProject("5-10", &agentcfg.ManifestProject{Id: "a", InventoryPolicy: "mine"})
	require.ErrorContains(t, err, `inventory_policy: unknown value "mine"`)
}

func TestLogLevels_FollowTheConfiguration(t *testing.T) {
	own := zap.NewAtomicLevelAt(zapcore.WarnLevel)
	core, logs := observer.New(own)
	l := &logLevels{log: zap.New(core), own: own, grpc: zap.NewAtomicLevelAt(zapcore.ErrorLevel), flag: zapcore.WarnLevel}
	grpcLog := zap.New(levelled{Core: core, level: l.grpc}).With(zap.Int("n", 1))

	grpcLog.Warn("hidden")
	l.apply(&agentcfg.Observability{Logging: &agentcfg.Logging{Level: agentcfg.LogLevel_debug, GrpcLevel: agentcfg.LogLevel_info.Enum()}})
	l.log.Debug("own")
	grpcLog.Info("grpc")
	l.apply(nil)
	require.Equal(t, zapcore.WarnLevel, own.Level(), "the flag's level is back")
	require.Equal(t, zapcore.ErrorLevel, l.grpc.Level())
	var messages []string
	for _, e := range logs.All() {
		messages = append(messages, e.Message)
	}
	require.Equal(t, []string{"own", "grpc", "Log level changed"}, messages)
}

func TestKlogSink_ErrorsAreWarnings(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	log := newKlogger(zap.New(core)).WithName("reflector").WithValues("kind", "Pod", "odd")
	log.Info("chatter")
	log.Error(os.ErrClosed, "failed to watch", "times", 3)
	require.Equal(t, 1, logs.Len())
	entry := logs.All()[0]
	require.Equal(t, zapcore.WarnLevel, entry.Level)
	require.Equal(t, map[string]any{"kind": "Pod", "times": int64(3), "error": "file already closed"}, entry.ContextMap())
}
