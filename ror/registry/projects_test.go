package registry_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/ror/registry"
)

func TestCreateProject_FullPathNamesOneThing(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "platform/web", "App", registry.Private)
	require.Equal(t, "platform/web/App", p.FullPath)
	require.Equal(t, "main", p.DefaultBranch)

	for _, row := range []struct{ name, namespace, path string }{
		{"the same path in other letters", "Platform/WEB", "app"},
		{"a namespace where a project is", "platform/web/app", "deep"},
		{"a project where a namespace is", "platform", "web"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := r.CreateProject(t.Context(), registry.NewProject{Namespace: row.namespace, Path: row.path, CreatorID: root.ID})
			require.ErrorIs(t, err, registry.ErrConflict)
		})
	}
}

func TestCreateProject_Rules(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	for _, row := range []struct {
		name    string
		project registry.NewProject
		field   string
	}{
		{"a path must be there", registry.NewProject{Namespace: "root", Name: "x"}, "path"},
		{"a path does not climb", registry.NewProject{Namespace: "root", Path: ".."}, "path"},
		{"a namespace does not climb", registry.NewProject{Namespace: "root/..", Path: "x"}, "namespace_path"},
		{"a namespace must be there", registry.NewProject{Path: "x"}, "namespace_path"},
		{"a visibility is one of three", registry.NewProject{Namespace: "root", Path: "x", Visibility: "secret"}, "visibility"},
		{"a branch is one that Git takes", registry.NewProject{Namespace: "root", Path: "x", DefaultBranch: "a..b"}, "default_branch"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.project.CreatorID = root.ID
			_, err := r.CreateProject(t.Context(), row.project)
			var invalid *registry.InvalidError
			require.ErrorAs(t, err, &invalid)
			require.Equal(t, row.field, invalid.Field)
		})
	}
}

func TestProject_IsFoundByNumberPathAndRepository(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Public)
	for _, find := range []func() (registry.Project, error){
		func() (registry.Project, error) { return r.FindProject(t.Context(), "1") },
		func() (registry.Project, error) { return r.FindProject(t.Context(), "Root/App") },
		func() (registry.Project, error) { return r.ProjectByGLRepository(t.Context(), p.GLRepository()) },
	} {
		got, err := find()
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	for _, missing := range []string{"2", "root", "root/app/", ""} {
		_, err := r.FindProject(t.Context(), missing)
		require.ErrorIs(t, err, registry.ErrNotFound, missing)
	}
	_, err := r.ProjectByGLRepository(t.Context(), "wiki-1")
	require.ErrorIs(t, err, registry.ErrNotFound)
	require.Equal(t, "@hashed/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b.git", p.RelativePath(), "as GitLab stores project 1")
}

func TestProject_NumberIsNotUsedTwice(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	first := addProject(t, r, root, "root", "app", registry.Private)
	require.NoError(t, r.DeleteProject(t.Context(), first.ID))
	require.NotEqual(t, first.ID, addProject(t, r, root, "root", "app", registry.Private).ID)
}

func TestAccess_ByLevelAndVisibility(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	owner := addUser(t, r, "owner", false)
	member := addUser(t, r, "member", false)
	stranger := addUser(t, r, "stranger", false)
	projects := map[registry.Visibility]registry.Project{}
	for _, v := range []registry.Visibility{registry.Private, registry.Internal, registry.Public} {
		projects[v] = addProject(t, r, owner, "owner", string(v), v)
	}
	type rights struct{ see, read, push, agents, administer bool }
	everything := rights{true, true, true, true, true}
	onlyRead := rights{see: true, read: true}
	for _, row := range []struct {
		name       string
		user       *registry.User
		level      registry.AccessLevel
		visibility registry.Visibility
		want       rights
	}{
		{"an admin may do everything", &root, 0, registry.Private, everything},
		{"so may the namespace's owner", &owner, 0, registry.Private, everything},
		{"a stranger does not see a private project", &stranger, 0, registry.Private, rights{}},
		{"nor does one who did not sign in", nil, 0, registry.Private, rights{}},
		{"signing in opens internal projects", &stranger, 0, registry.Internal, onlyRead},
		{"nothing else does", nil, 0, registry.Internal, rights{}},
		{"public is for all", nil, 0, registry.Public, onlyRead},
		{"a guest sees", &member, registry.Guest, registry.Private, rights{see: true}},
		{"a reporter reads", &member, registry.Reporter, registry.Private, onlyRead},
		{"a developer pushes and sees agents", &member, registry.Developer, registry.Private, rights{true, true, true, true, false}},
		{"a maintainer administers", &member, registry.Maintainer, registry.Private, everything},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := projects[row.visibility]
			if row.level != 0 {
				_, err := r.SetMember(t.Context(), p.ID, row.user.ID, row.level)
				require.NoError(t, err)
			}
			a, err := r.Access(t.Context(), row.user, p)
			require.NoError(t, err)
			require.Equal(t, row.want, rights{a.See(), a.ReadCode(), a.Push(), a.ReadAgents(), a.Administer()})
		})
	}
}

func TestLists_ShowOnlyWhatTheUserMaySee(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	ada := addUser(t, r, "ada", false)
	secret := addProject(t, r, root, "platform", "secret", registry.Private)
	open := addProject(t, r, root, "platform", "open", registry.Public)
	own := addProject(t, r, ada, "ada", "own", registry.Private)
	for _, p := range []registry.Project{secret, open, own} {
		addAgent(t, r, p, "dev", root)
	}
	projectsOf := func(u *registry.User) []string {
		list, err := r.Projects(t.Context(), u)
		require.NoError(t, err)
		var paths []string
		for _, p := range list {
			paths = append(paths, p.FullPath)
		}
		return paths
	}
	agentsOf := func(u registry.User) []string {
		list, err := r.Agents(t.Context(), u)
		require.NoError(t, err)
		var paths []string
		for _, a := range list {
			paths = append(paths, a.Project.FullPath)
		}
		return paths
	}
	require.Equal(t, []string{"platform/open"}, projectsOf(nil))
	require.Equal(t, []string{"ada/own", "platform/open"}, projectsOf(&ada))
	require.Equal(t, []string{"ada/own", "platform/open", "platform/secret"}, projectsOf(&root))
	require.Equal(t, []string{"ada/own"}, agentsOf(ada), "agents of a public project are not public")
	require.Equal(t, []string{"ada/own", "platform/open", "platform/secret"}, agentsOf(root))
	_, err := r.SetMember(t.Context(), secret.ID, ada.ID, registry.Developer)
	require.NoError(t, err)
	require.Equal(t, []string{"ada/own", "platform/secret"}, agentsOf(ada))
}

func TestAgentMayRead_Rules(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	ada := addUser(t, r, "ada", false)
	config := addProject(t, r, root, "platform", "config", registry.Private)
	private := addProject(t, r, root, "platform", "private", registry.Private)
	internal := addProject(t, r, root, "platform", "internal", registry.Internal)
	own := addProject(t, r, ada, "ada", "own", registry.Private)
	_, err := r.SetMember(t.Context(), config.ID, ada.ID, registry.Maintainer)
	require.NoError(t, err)
	adas := addAgent(t, r, config, "ada-made-it", ada)
	roots := addAgent(t, r, config, "root-made-it", root)
	for _, row := range []struct {
		name    string
		agent   registry.Agent
		project registry.Project
		may     bool
	}{
		{"its configuration project", adas, config, true},
		{"a project open to all users", adas, internal, true},
		{"one that its creator may read", adas, own, true},
		{"one that its creator may not read", adas, private, false},
		{"an admin's agent may read every project", roots, private, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			may, err := r.AgentMayRead(t.Context(), row.agent, row.project)
			require.NoError(t, err)
			require.Equal(t, row.may, may)
		})
	}
}

func TestRecordPush_KeepsTheNewest(t *testing.T) {
	r, clock, path := openAt(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Private)
	last, err := r.LastPush(t.Context(), p.ID)
	require.NoError(t, err)
	require.Zero(t, last)
	for range 2 {
		clock.SetTime(clock.Now().Add(time.Second))
		push := registry.Push{Project: p, UserID: root.ID, At: clock.Now()}
		for range 700 { // together more than are kept
			push.Changes = append(push.Changes, registry.RefChange{Ref: "refs/heads/main", Old: "a", New: "b"})
		}
		require.NoError(t, r.RecordPush(t.Context(), push))
	}
	last, err = r.LastPush(t.Context(), p.ID)
	require.NoError(t, err)
	require.Equal(t, clock.Now(), last)

	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	var kept int
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM pushes").Scan(&kept))
	require.Equal(t, 1000, kept)
}

func TestOpen_RefusesADatabaseOfANewerProgram(t *testing.T) {
	_, _, path := openAt(t)
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "PRAGMA user_version = 1000")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = registry.Open(t.Context(), registry.Config{Path: path})
	require.ErrorContains(t, err, "start the newer program")
}
