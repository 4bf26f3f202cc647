package plane

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeter_CountsEachRequestOfItsUserAgentOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := os.Create(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	write := func(text string) {
		_, err := log.WriteString(text)
		require.NoError(t, err)
	}
	write(`{"stage":"ResponseComplete","verb":"get","userAgent":"ours/1"}` + "\n")
	m, err := (&Plane{audit: path}).NewMeter("ours")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	write(`{"stage":"ResponseComplete","verb":"patch","userAgent":"ours/1"}
{"stage":"ResponseComplete","verb":"patch","userAgent":"theirs"}
{"stage":"ResponseStarted","verb":"watch","userAgent":"ours/1"}
{"stage":"ResponseComplete","verb":"watch","userAgent":"ours/1"}
{"stage":"ResponseComplete","verb":"update","userAgent":"ours/1","objectRef":{"resource":"leases"}}
{"stage":"ResponseComplete","verb":"li`)
	got, err := m.Take()
	require.NoError(t, err)
	require.Equal(t, Requests{"patch": 1, "watch": 1}, got)
	require.Equal(t, 2, got.Total())
	require.Equal(t, 1, got.Writes())

	write(`st","userAgent":"ours/1"}` + "\n")
	got, err = m.Take()
	require.NoError(t, err)
	require.Equal(t, Requests{"list": 1}, got)
	require.Zero(t, got.Writes())
}
