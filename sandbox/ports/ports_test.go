package ports_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/sandbox/ports"
)

func open(t *testing.T, file string) *ports.Set {
	t.Helper()
	s, err := ports.Open(file)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestTake_KeepsOnePortPerName(t *testing.T) {
	s := open(t, "")
	a, err := s.Take("a")
	require.NoError(t, err)
	again, err := s.Take("a")
	require.NoError(t, err)
	require.Equal(t, a, again)
	b, err := s.Take("b")
	require.NoError(t, err)
	require.NotEqual(t, a, b)
}

func TestTake_LeavesAPortToWhoHoldsIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ports.json")
	holder := open(t, file)
	port, err := holder.Take("a")
	require.NoError(t, err)
	other, err := open(t, file).Take("a")
	require.NoError(t, err)
	require.NotEqual(t, port, other, "held, though nobody listens on it")
}

func TestTake_PrefersThePortOfTheSetBefore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ports.json")
	first, err := ports.Open(file)
	require.NoError(t, err)
	address, err := first.Address("a")
	require.NoError(t, err)
	require.NoError(t, first.Close())

	second := open(t, file)
	again, err := second.Address("a")
	require.NoError(t, err)
	require.Equal(t, address, again)
	require.NoError(t, second.Close())

	stranger, err := net.Listen("tcp", address)
	require.NoError(t, err)
	defer stranger.Close() //nolint:errcheck // nothing was written
	elsewhere, err := open(t, file).Address("a")
	require.NoError(t, err)
	require.NotEqual(t, address, elsewhere, "somebody listens there now")
}

func TestOpen_NamesAFileThatIsNoListOfPorts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ports.json")
	require.NoError(t, os.WriteFile(file, []byte("no JSON"), 0o600))
	_, err := ports.Open(file)
	require.ErrorContains(t, err, file)
}
