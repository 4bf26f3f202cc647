package gitops_test

import (
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/gitops"
)

func TestRun_ErrorOfASecretDoesNotCarryItsValues(t *testing.T) {
	const plain, multi = "pa$$w\"rd", "first line of it\nsecond line of it"
	encoded := base64.StdEncoding.EncodeToString([]byte(plain))
	secret := fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: %q}, stringData: {b: %q, c: %q, d: 123456}}`,
		encoded, multi, "ab")
	for _, row := range []struct{ name, said, want string }{
		{"as written", "no: " + encoded, "no: (masked)"},
		{"decoded", "no: " + plain, "no: (masked)"},
		{"as Go quotes it", fmt.Sprintf("no: %q", plain), `no: "(masked)"`},
		{"with escaped ends of lines", fmt.Sprintf("no: %q", multi), `no: "(masked)"`},
		{"a line alone", "no: second line of it", "no: (masked)"},
		{"encoded by the API server", "no: " + base64.StdEncoding.EncodeToString([]byte(multi)), "no: (masked)"},
		{"a number where text belongs", "expected string, got 123456", "expected string, got (masked)"},
		{"too short to be a secret", "about ab", "about ab"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			for _, wrap := range []func(error) error{
				func(err error) error { return err },
				func(err error) error { return &gitops.KindError{Kind: gitops.ErrTransient, Err: err} },
				func(err error) error { return &gitops.ImmutableError{Fields: []string{"data"}, Err: err} },
			} {
				f := w.process()
				f.fault = func(call string) error {
					if call != "before apply s" {
						return nil
					}
					err := fmt.Errorf("admission webhook \"w\" denied the request: %s", row.said) //nolint:err113 // the API server's words
					return wrap(err)
				}
				_, o := run(t, f, project(), set(t, secret))
				require.Equal(t, gitops.ActionFailed, o.get("s").Action)
				require.Contains(t, o.get("s").Message, `admission webhook "w" denied the request: `+row.want)
			}
		})
	}
}

func TestRun_APIServerAwayDoesNotCarryASecretEither(t *testing.T) {
	f := newWorld().process()
	f.fault = func(call string) error {
		if call == "before apply s" {
			return fmt.Errorf("%w: sending hunter22", gitops.ErrUnavailable)
		}
		return nil
	}
	_, err := gitops.Run(t.Context(), f, project(), set(t, `{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: hunter22}}`), newObserver())
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	require.NotContains(t, err.Error(), "hunter22")
}
