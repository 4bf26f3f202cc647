package agentk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/program"
)

func TestCommand_SaysWhatIsWrongWithACall(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte("t"), 0o600))
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	t.Setenv("HOME", dir)
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	held, err := openStateDir(filepath.Join(dir, "state"))
	require.NoError(t, err)
	defer func() { require.NoError(t, held.Close()) }()
	for _, row := range []struct {
		name   string
		args   []string
		status int
		stderr string
	}{
		{"no address", nil, 2, "--kas-address is not set"},
		{"no token file", []string{"--kas-address=grpc://h:1"}, 2, "--token-file is not set"},
		{"an address of a strange scheme", []string{"--kas-address=https://h/x", "--token-file", token}, 2, "wss://HOST[:PORT]/PATH"},
		{"a CA file that is none", []string{"--kas-address=grpcs://h:1", "--token-file", token, "--ca-cert-file", token}, 2, "holds no PEM certificate"},
		{"a CA file without TLS", []string{"--kas-address=grpc://h:1", "--token-file", token, "--ca-cert-file", token}, 2, "of no use with grpc://"},
		{"a CA file without TLS around the WebSocket", []string{"--kas-address=ws://h/x", "--token-file", token, "--ca-cert-file", token}, 2, "of no use with ws://"},
		{"an unknown log format", []string{"--kas-address=grpc://h:1", "--token-file", token, "--log-format=xml"}, 2, "--log-format"},
		{"an argument", []string{"sync"}, 2, "unknown command"},
		{"a state directory in use", []string{"--kas-address=grpc://h:1", "--token-file", token, "--state-dir", filepath.Join(dir, "state")}, 1, "in use by another agentk"},
		{"no cluster", []string{"--kas-address=grpc://h:1", "--token-file", token}, 1, "no cluster: give --kubeconfig or KUBECONFIG"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var stderr bytes.Buffer
			require.Equal(t, row.status, program.Run(t.Context(), NewCommand(), row.args, &stderr))
			require.Contains(t, stderr.String(), row.stderr)
			require.Equal(t, 1, bytes.Count(stderr.Bytes(), []byte("\n")), "one line")
		})
	}
}
