package kas

import (
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// dialled returns both ends of a connection to a listener that notes endings.
func dialled(t *testing.T) (here net.Conn, there *net.TCPConn) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	here, err = noted{l}.Accept()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	t.Cleanup(func() {
		_ = conn.Close()
		_ = here.Close()
	})
	return here, conn.(*net.TCPConn)
}

func TestNoted_RemembersHowConnectionsEnded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the system does not say")
	}
	for name, row := range map[string]struct {
		end  func(*testing.T, *net.TCPConn)
		want string
	}{
		"the other end closes it": {func(t *testing.T, c *net.TCPConn) { t.Helper(); require.NoError(t, c.Close()) }, endedByAgent},
		"the other end resets it": {func(t *testing.T, c *net.TCPConn) {
			t.Helper()
			require.NoError(t, c.SetLinger(0))
			require.NoError(t, c.Close())
		}, endedByAgent},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := dialled(t)
			from := here.RemoteAddr().(interface{ Ending() string })
			require.Empty(t, from.Ending())
			require.Equal(t, there.LocalAddr().String(), here.RemoteAddr().String())
			row.end(t, there)
			_, err := here.Read(make([]byte, 1)) // when it has heard
			require.Error(t, err)
			require.NoError(t, here.Close())
			require.Equal(t, row.want, from.Ending())
			require.Error(t, here.Close())
			require.Equal(t, row.want, from.Ending(), "the first time counts")
		})
	}
	t.Run("this end closes it", func(t *testing.T) {
		here, _ := dialled(t)
		require.NoError(t, here.Close())
		require.Equal(t, endedByKas, here.RemoteAddr().(interface{ Ending() string }).Ending())
	})
}
