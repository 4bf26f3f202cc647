package objects

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCase_MakesAsManyObjectsAsItSaysAndChangesOneInAHundred(t *testing.T) {
	for _, c := range []Case{ConfigMaps(1000, 200), Deployments(1000), Mixed(5000)} {
		t.Run(c.Name, func(t *testing.T) {
			base, err := c.Make("bench-x", 0)
			require.NoError(t, err)
			require.Len(t, base, c.Size)
			changed, err := c.Make("bench-x", 1)
			require.NoError(t, err)
			different := 0
			seen := map[string]bool{}
			for i := range base {
				if !bytes.Equal(base[i].JSON, changed[i].JSON) {
					different++
				}
				id := base[i].Kind + "/" + base[i].Namespace + "/" + base[i].Name
				require.False(t, seen[id], id)
				seen[id] = true
			}
			require.InDelta(t, c.Size/100, different, 1)
		})
	}
}

func TestRead_ReturnsWhatWriteStored(t *testing.T) {
	set, err := Mixed(500).Make("bench-x", 0)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "set")
	require.NoError(t, Write(path, set))
	again, err := Read(path)
	require.NoError(t, err)
	require.Equal(t, set, again)
}
