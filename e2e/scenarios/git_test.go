package scenarios

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

func TestGit_CloneFetchPush(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	u := f.NewUser("dev")
	f.SetAccess(u, f.Manifests.Path, harness.Developer)
	f.Manifests.Write("README.md", "first\n")
	f.Manifests.Push("First")
	for _, row := range []struct{ name, user, password string }{
		{"by password", u.Name, u.Password},
		{"by personal access token", u.Name, u.Token},
		{"by personal access token, whatever the name", "oauth2", u.Token},
		{"by password, as the administrator", stack.User, f.Stack.Password},
	} {
		theirs, err := f.CloneAs(row.user, row.password, f.Manifests.Path)
		if err != nil {
			t.Fatal(err)
		}
		theirs.Write("README.md", row.name+"\n")
		theirs.Push("Change " + row.name)
		f.Manifests.Git("pull", "--quiet", "--ff-only", "origin", "main")
		if got := read(t, f.Manifests, "README.md"); got != row.name+"\n" {
			t.Errorf("what was pushed %s came back as %q", row.name, got)
		}
		f.Manifests.Write("README.md", "back\n")
		back := f.Manifests.Push("Change back")
		theirs.Git("fetch", "--quiet", "origin")
		if got := theirs.Git("rev-parse", "origin/main"); got != back {
			t.Errorf("%s, %s was fetched, want %s", row.name, got, back)
		}
	}
}

func TestGit_PushSaysWhereToLook(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	f.Manifests.Git("commit", "--quiet", "--allow-empty", "--message", "First")
	said := f.Manifests.Git("push", "origin", "HEAD")
	for _, want := range []string{"remote: To see how this reaches your clusters, visit:", "remote:   " + f.Stack.RorURL + "/" + f.Manifests.Path} {
		if !strings.Contains(said, want) {
			t.Errorf("git does not show %q:\n%s", want, said)
		}
	}
}

func TestGit_AnonymousSeesWhatIsPublicOnly(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	public := f.NewRepo("public", "public")
	public.Write("README.md", "for all\n")
	public.Push("First")

	theirs, err := f.CloneAs("", "", public.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, theirs, "README.md"); got != "for all\n" {
		t.Errorf("an anonymous clone has %q", got)
	}
	theirs.Git("commit", "--quiet", "--allow-empty", "--message", "Theirs")
	_, err = theirs.TryGit("push", "origin", "HEAD")
	refused(t, err, "could not read Username")
	// Whether or not there is such a project, a stranger is asked for a name.
	for _, path := range []string{f.Manifests.Path, f.Name + "/not-there"} {
		_, err = f.CloneAs("", "", path)
		refused(t, err, "could not read Username")
	}
}

func TestGit_Refusals(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	f.Manifests.Write("README.md", "first\n")
	f.Manifests.Push("First")
	stranger, guest, reporter := f.NewUser("stranger"), f.NewUser("guest"), f.NewUser("reporter")
	f.SetAccess(guest, f.Manifests.Path, harness.Guest)
	f.SetAccess(reporter, f.Manifests.Path, harness.Reporter)

	_, err := f.CloneAs(reporter.Name, "wrong", f.Manifests.Path)
	refused(t, err, "Authentication failed for", "remote: Sign in with your user name")
	for _, path := range []string{f.Manifests.Path, f.Name + "/not-there"} {
		_, err = f.CloneAs(stranger.Name, stranger.Password, path)
		refused(t, err, "remote: The project you were looking for could not be found", path+".git/' not found")
	}
	_, err = f.CloneAs(guest.Name, guest.Token, f.Manifests.Path)
	refused(t, err, "remote: You are not allowed to download code from this project", "403")

	theirs, err := f.CloneAs(reporter.Name, reporter.Token, f.Manifests.Path)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Git("commit", "--quiet", "--allow-empty", "--message", "Theirs")
	_, err = theirs.TryGit("push", "origin", "HEAD")
	refused(t, err, "remote: You are not allowed to push code to this project: ask its maintainer for the developer role", "403")
}

func TestGit_RefusedByTheHook(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	f.Manifests.Write("README.md", "first\n")
	first := f.Manifests.Push("First")
	u := f.NewUser("dev")
	f.SetAccess(u, f.Manifests.Path, harness.Developer)
	// Let in by ror, the pusher loses the role before Gitaly's hook asks.
	server := f.InPush(0, func() { f.SetAccess(u, f.Manifests.Path, harness.Reporter) })
	theirs, err := f.CloneFrom(server, u.Name, u.Password, f.Manifests.Path)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Write("README.md", "theirs\n")
	theirs.Git("commit", "--quiet", "--all", "--message", "Theirs")
	_, err = theirs.TryGit("push", "origin", "HEAD")
	refused(t, err, "remote: GitLab: You are not allowed to push code to this project", "pre-receive hook declined")
	if now := strings.Fields(f.Manifests.Git("ls-remote", "origin", "refs/heads/main"))[0]; now != first {
		t.Errorf("main is at %s though the push was refused", now)
	}
}

// refused fails the test unless git failed and said all this.
func refused(t *testing.T, err error, says ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("git did not fail, want %q", says)
		return
	}
	for _, want := range says {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("git does not say %q: %v", want, err)
		}
	}
}

func read(t *testing.T, r *harness.Repo, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.Dir, path))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("no file %s", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
