package sandbox_test

import (
	"bufio"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox"
)

// askRedis sends one line and returns the line that it answers in time.
func askRedis(t *testing.T, network, address, line string, patience time.Duration) (string, error) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), network, address)
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // nothing is in flight
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte(line + "\r\n"))
	require.NoError(t, err)
	return bufio.NewReader(conn).ReadString('\n')
}

func TestRedis_KeepsItsAddressAndForgetsItsData(t *testing.T) {
	r, err := sandbox.StartRedis(t.Context(), sandbox.RedisConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Stop()) })
	answer, err := askRedis(t, "unix", r.Socket, "SET k v", testkit.Patience)
	require.NoError(t, err)
	require.Equal(t, "+OK\r\n", answer)

	require.NoError(t, r.Pause())
	_, err = askRedis(t, "tcp", r.Address, "PING", 200*time.Millisecond)
	require.Error(t, err)
	require.NoError(t, r.Resume())

	r.Process.Kill()
	require.Error(t, r.Pause())
	require.NoError(t, r.Process.Start(t.Context()))
	answer, err = askRedis(t, "tcp", r.Address, "EXISTS k", testkit.Patience)
	require.NoError(t, err)
	require.Equal(t, ":0\r\n", answer)

	require.NoError(t, r.Pause(), "even then it stops")
	require.NoError(t, r.Stop())
	require.False(t, r.Process.Running())
	require.NoDirExists(t, r.Dir)
	require.NoFileExists(t, r.Socket)
}
