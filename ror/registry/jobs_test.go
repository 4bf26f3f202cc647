package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/ror/registry"
)

func TestJob_RunsUntilFinishedOrItsTimeIsUp(t *testing.T) {
	r, clock := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Private)
	start := func() (registry.Job, string) {
		j, token, err := r.CreateJob(t.Context(), registry.NewJob{Project: p, User: root, Ref: "main", Environment: "prod/eu"})
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(token, "glcbt-"))
		return j, token
	}
	first, firstToken := start()
	second, secondToken := start()
	got, err := r.JobByToken(t.Context(), firstToken)
	require.NoError(t, err)
	require.Equal(t, first, got)
	require.True(t, got.Protected())
	require.Equal(t, registry.JobRunning, got.Status)

	clock.SetTime(clock.Now().Add(time.Minute))
	finished, err := r.FinishJob(t.Context(), p.ID, first.ID)
	require.NoError(t, err)
	require.Equal(t, registry.JobSuccess, finished.Status)
	require.Equal(t, clock.Now(), finished.FinishedAt)
	_, err = r.JobByToken(t.Context(), firstToken)
	require.ErrorIs(t, err, registry.ErrUnauthorized)

	clock.SetTime(second.ExpiresAt.Add(-time.Millisecond))
	_, err = r.JobByToken(t.Context(), secondToken)
	require.NoError(t, err)
	clock.SetTime(second.ExpiresAt)
	_, err = r.JobByToken(t.Context(), secondToken)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	for id, status := range map[int64]registry.JobStatus{first.ID: registry.JobSuccess, second.ID: registry.JobFailed} {
		j, err := r.FinishJob(t.Context(), p.ID, id)
		require.NoError(t, err)
		require.Equal(t, status, j.Status, "ending what has ended changes nothing")
	}
	jobs, err := r.Jobs(t.Context(), p.ID)
	require.NoError(t, err)
	require.Equal(t, second.ID, jobs[0].ID)
	require.Len(t, jobs, 2)
	_, err = r.FinishJob(t.Context(), p.ID+1, first.ID)
	require.ErrorIs(t, err, registry.ErrNotFound, "a job is its project's")

	clock.SetTime(clock.Now().Add(31 * 24 * time.Hour))
	third, _ := start()
	require.Greater(t, third.ID, second.ID, "numbers are never used twice")
	jobs, err = r.Jobs(t.Context(), p.ID)
	require.NoError(t, err)
	require.Len(t, jobs, 1, "old ones are forgotten")
}

func TestCreateJob_RefusesWhatIsNone(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Private)
	for _, row := range []struct {
		name   string
		job    registry.NewJob
		reason string
	}{
		{"no ref", registry.NewJob{}, "ref must be the name of a branch or tag"},
		{"a tier of nothing", registry.NewJob{Ref: "main", Tier: "production"}, "environment is missing"},
		{"an unknown tier", registry.NewJob{Ref: "main", Environment: "x", Tier: "gold"}, "tier is not included in the list: production"},
		{"a long name", registry.NewJob{Ref: "main", Environment: strings.Repeat("x", 256)}, "environment is too long"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.job.Project, row.job.User = p, root
			_, _, err := r.CreateJob(t.Context(), row.job)
			var invalid *registry.InvalidError
			require.ErrorAs(t, err, &invalid)
			require.Contains(t, err.Error(), row.reason)
		})
	}
}

func TestEnvironment_SlugAndTierAreGitLabs(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	p := addProject(t, r, root, "root", "app", registry.Private)
	for name, want := range map[string]struct{ slug, tier string }{
		"staging-12345678901234567": {"staging-123456789-SUFFIX", "staging"},
		"9-staging-123456789012345": {"env-9-staging-123-SUFFIX", "staging"},
		"staging-1234567890123456":  {"staging-1234567890123456", "staging"},
		"staging-12345678-":         {"staging-12345678", "staging"},
		"staging-12345678-01234567": {"staging-12345678-SUFFIX", "staging"},
		"production":                {"production", "production"},
		"PRODUCTION":                {"production-SUFFIX", "production"},
		"review/1-foo":              {"review-1-foo-SUFFIX", "development"},
		"1/foo":                     {"env-1-foo-SUFFIX", "other"},
		"*-foo":                     {"env-foo-SUFFIX", "other"},
		"foo--bar":                  {"foo-bar-SUFFIX", "other"},
		"foo-":                      {"foo", "other"},
		"qa":                        {"qa", "testing"},
		"Preview":                   {"preview-SUFFIX", "development"},
	} {
		j, _, err := r.CreateJob(t.Context(), registry.NewJob{Project: p, User: root, Ref: "main", Environment: name})
		require.NoError(t, err)
		require.Equal(t, want.tier, j.Environment.Tier, name)
		require.Regexp(t, "^"+strings.Replace(want.slug, "SUFFIX", "[a-z0-9]{6}", 1)+"$", j.Environment.Slug, name)
	}
}

func TestGroupsAbove_AreThoseOfNoUser(t *testing.T) {
	r, _ := open(t)
	root := addUser(t, r, "root", true)
	groups, err := r.GroupsAbove(t.Context(), addProject(t, r, root, "a/b/c", "app", registry.Private))
	require.NoError(t, err)
	var paths []string
	for _, g := range groups {
		paths = append(paths, g.FullPath)
	}
	require.Equal(t, []string{"a", "a/b", "a/b/c"}, paths)
	groups, err = r.GroupsAbove(t.Context(), addProject(t, r, root, "root", "app", registry.Private))
	require.NoError(t, err)
	require.Empty(t, groups)
	groups, err = r.GroupsAbove(t.Context(), addProject(t, r, root, "root/sub", "app", registry.Private))
	require.NoError(t, err)
	require.Empty(t, groups)
}
