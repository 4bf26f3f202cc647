package gitaly

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/gitrepo"
)

const (
	one  = "1111111111111111111111111111111111111111"
	two  = "2222222222222222222222222222222222222222"
	long = "3333333333333333333333333333333333333333333333333333333333333333"
)

// advertise returns an advertisement of "<id> <name>" lines.
func advertise(lines ...string) string {
	var b strings.Builder
	b.WriteString("001e# service=git-upload-pack\n0000")
	for _, line := range lines {
		fmt.Fprintf(&b, "%04x%s\n", len(line)+5, line)
	}
	b.WriteString("0000")
	return b.String()
}

func TestFindRef(t *testing.T) {
	const capabilities = "\x00multi_ack symref=HEAD:refs/heads/main agent=git/2"
	all := advertise(one+" HEAD"+capabilities, two+" refs/heads/feature/x", one+" refs/heads/main", long+" refs/heads/sha256",
		one+" refs/tags/light", two+" refs/tags/v1", one+" refs/tags/v1^{}", two+" refs/tags/v2")
	tests := map[string]struct {
		data    string
		ref     gitrepo.Ref
		wantRef gitrepo.Ref
		want    string
		problem error
	}{
		"the default branch":    {data: all, wantRef: gitrepo.Ref{Branch: "main"}, want: one},
		"a branch":              {data: all, ref: gitrepo.Ref{Branch: "main"}, wantRef: gitrepo.Ref{Branch: "main"}, want: one},
		"a branch with a slash": {data: all, ref: gitrepo.Ref{Branch: "feature/x"}, wantRef: gitrepo.Ref{Branch: "feature/x"}, want: two},
		"SHA-256":               {data: all, ref: gitrepo.Ref{Branch: "sha256"}, wantRef: gitrepo.Ref{Branch: "sha256"}, want: long},
		"a light tag":           {data: all, ref: gitrepo.Ref{Tag: "light"}, wantRef: gitrepo.Ref{Tag: "light"}, want: one},
		"an annotated tag is the commit it is about": {data: all, ref: gitrepo.Ref{Tag: "v1"}, wantRef: gitrepo.Ref{Tag: "v1"}, want: one},
		"a tag at the end":                           {data: all, ref: gitrepo.Ref{Tag: "v2"}, wantRef: gitrepo.Ref{Tag: "v2"}, want: two},
		"a branch that is not":                       {data: all, ref: gitrepo.Ref{Branch: "mai"}, problem: &gitrepo.RefNotFoundError{Ref: gitrepo.Ref{Branch: "mai"}}},
		"a tag that is a branch":                     {data: all, ref: gitrepo.Ref{Tag: "main"}, problem: &gitrepo.RefNotFoundError{Ref: gitrepo.Ref{Tag: "main"}}},
		"nobody can ask for a peeled tag":            {data: all, ref: gitrepo.Ref{Branch: "../tags/v1^{}"}, problem: &gitrepo.RefNotFoundError{Ref: gitrepo.Ref{Branch: "../tags/v1^{}"}}},
		"a default branch without a commit":          {data: advertise(two + " refs/heads/x" + capabilities), problem: &gitrepo.RefNotFoundError{}},
		"a HEAD that is no branch":                   {data: advertise(one+" HEAD\x00multi_ack", two+" refs/heads/x"), want: one},
		"an empty repository":                        {data: advertise(), problem: gitrepo.ErrEmpty},
		"an empty repository, as other versions say": {data: advertise("0000000000000000000000000000000000000000 capabilities^{}" + capabilities), problem: gitrepo.ErrEmpty},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ref, id, err := findRef(strings.NewReader(tt.data), tt.ref)
			if tt.problem != nil {
				assert.Equal(t, tt.problem, err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, id)
			assert.Equal(t, tt.wantRef, ref)
		})
	}
}

func TestFindRef_RefusesWhatIsNoAdvertisement(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":                "",
		"a text":                 "hello, world",
		"a length of three":      "0003",
		"cut short in a line":    "001e# service=git-upload-pack\n000000ff" + one,
		"cut short before flush": strings.TrimSuffix(advertise(one+" HEAD\x00x"), "0000"),
		"an error packet":        advertise("ERR go away"),
		"an ID in capitals":      advertise(strings.Repeat("A", 40) + " refs/heads/main"),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := findRef(strings.NewReader(data), gitrepo.Ref{Branch: "main"})
			require.Error(t, err)
			var missing *gitrepo.RefNotFoundError
			assert.False(t, errors.Is(err, gitrepo.ErrEmpty) || errors.As(err, &missing), "a person would be blamed: %v", err)
		})
	}
}

func TestFindRef_ReadsNoMoreThanItNeeds(t *testing.T) {
	head := "001e# service=git-upload-pack\n0000" + fmt.Sprintf("%04x%s HEAD\n", 4+len(one)+6, one)
	r := io.MultiReader(strings.NewReader(head), failing{t})
	_, id, err := findRef(r, gitrepo.Ref{})
	require.NoError(t, err)
	assert.Equal(t, one, id)
}

type failing struct{ t *testing.T }

func (f failing) Read([]byte) (int, error) {
	f.t.Error("read on after the answer was known")
	return 0, io.EOF
}

func FuzzFindRef(f *testing.F) {
	f.Add([]byte(advertise(one+" HEAD\x00symref=HEAD:refs/heads/main", one+" refs/tags/a", two+" refs/tags/a^{}")), "a", true)
	f.Add([]byte("00000000"), "main", false)
	f.Fuzz(func(t *testing.T, data []byte, name string, tag bool) {
		ref := gitrepo.Ref{Branch: name}
		if tag {
			ref = gitrepo.Ref{Tag: name}
		}
		if _, id, err := findRef(strings.NewReader(string(data)), ref); err == nil && !isOID(id) {
			t.Fatalf("%q is no commit ID", id)
		}
	})
}
