package inventory

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDecodeEntry reads what anybody may have put into the ConfigMap of an inventory:
// nothing panics, what was read is written and read the same, and two objects never
// share a key.
func FuzzDecodeEntry(f *testing.F) {
	f.Add("ns_a_apps_Deployment", `{"d":"x"}`, "ns_a__ConfigMap", "")
	f.Add("sha256-00", `{"id":{"k":"K","n":"a"}}`, "_a__b_rbac.authorization.k8s.io_ClusterRole", `{"h":true}`)
	f.Add("", "", "_", "null")
	f.Fuzz(func(t *testing.T, key, value, otherKey, otherValue string) {
		for _, s := range []string{key, otherKey} {
			if strings.ToValidUTF8(s, "") != s {
				t.Skip("no API server has such a key")
			}
		}
		id, e, err := decode(key, value)
		if err != nil {
			return
		}
		k, v := encode(id, e)
		require.LessOrEqual(t, len(k), maxKey)
		require.Regexp(t, validKey, k)
		again, same, err := decode(k, v)
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.Equal(t, e, same)
		k2, v2 := encode(again, same)
		require.Equal(t, [2]string{k, v}, [2]string{k2, v2})

		if other, _, err := decode(otherKey, otherValue); err == nil && other != id {
			otherEncoded, _ := encode(other, e)
			require.NotEqual(t, k, otherEncoded)
		}
	})
}
