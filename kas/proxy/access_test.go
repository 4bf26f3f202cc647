package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/answers"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestAccess_RoRIsBelievedForAWhile(t *testing.T) {
	h := start(t, answering(200))
	asks := func(want int, agent string, code int) {
		t.Helper()
		before := h.ror.count()
		response, body := h.get("/", "Authorization", "", "Authorization", "Bearer "+agent)
		require.Equal(t, code, response.StatusCode, body)
		require.Equal(t, want, h.ror.count()-before, "questions to RoR")
	}
	asks(1, "pat:7:good", 200)
	asks(0, "pat:7:good", 200)
	asks(1, "pat:8:good", 503) // of another agent RoR has said nothing
	asks(1, "ci:7:job", 200)
	asks(0, "ci:7:job", 200)
	asks(0, "ci:8:job", 403) // of a job it says all
	asks(1, "pat:7:bad", 401)
	asks(0, "pat:7:bad", 401)
	h.clock.Step(11 * time.Second)
	asks(0, "pat:7:good", 200)
	asks(1, "pat:7:bad", 401) // a refusal is believed for less
	h.clock.Step(50 * time.Second)
	asks(1, "pat:7:good", 200)
	require.InDelta(t, 3.0, h.value("kas_proxy_authorizations_total", "personal_access_token", "hit"), 0)
	require.InDelta(t, 5.0, h.value("kas_proxy_authorizations_total", "personal_access_token", "asked"), 0)
	require.InDelta(t, 2.0, h.value("kas_proxy_authorizations_total", "ci_job", "hit"), 0)
}

func TestAccess_RoRBeingAwayIsNoRefusal(t *testing.T) {
	h := start(t, answering(200))
	h.ror.change(func(f *fakeRoR) { f.err = fmt.Errorf("dial: %w", gitlabapi.ErrUnavailable) })
	for _, bearer := range []string{"pat:7:good", "ci:7:job"} {
		response, body := h.get("/", "Authorization", "", "Authorization", "Bearer "+bearer)
		refused(t, response, body, 503, "RoR cannot be asked")
		require.Equal(t, "2", response.Header.Get("Retry-After"))
		require.NotContains(t, body, "good")
	}
	h.ror.change(func(f *fakeRoR) { f.err = nil })
	response, body := h.get("/")
	require.Equal(t, 200, response.StatusCode, body)
}

func TestAccess_WhatRoRRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		err    error
		bearer string
		code   int
		part   string
	}{
		"a token that it does not know":      {gitlabapi.ErrUnauthorized, "pat:7:good", 401, "does not accept the personal access token"},
		"a job that is over":                 {gitlabapi.ErrUnauthorized, "ci:7:job", 401, "does not accept the CI job token"},
		"a person without access":            {gitlabapi.ErrForbidden, "pat:7:good", 403, "user_access in the agent's configuration"},
		"an agent that there is not":         {gitlabapi.ErrNotFound, "pat:7:good", 403, "or there is no such agent"},
		"a job without access":               {gitlabapi.ErrForbidden, "ci:7:job", 403, "ci_access in the agent's configuration"},
		"a job, of agents that are not its":  {nil, "ci:9:job", 403, "this CI job may not use agent 9"},
		"a question that it does not follow": {gitlabapi.ErrRejected, "pat:7:good", 502, "could make nothing of"},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, answering(200))
			h.ror.change(func(f *fakeRoR) { f.err = row.err })
			response, body := h.get("/", "Authorization", "", "Authorization", "Bearer "+row.bearer)
			refused(t, response, body, row.code, row.part)
			wanted := ""
			if row.code == 401 || row.code == 403 {
				wanted = "true"
			}
			require.Equal(t, wanted, response.Header.Get("Gitlab-Unauthorized"))
		})
	}
}

func TestAccess_AnAnswerAboutAnotherAgentIsNone(t *testing.T) {
	h := start(t, answering(200))
	h.ror.change(func(f *fakeRoR) { f.agent = 8 })
	response, body := h.get("/")
	refused(t, response, body, 502, "asked about agent 7 and answered about agent 8")
}

func TestAccess_RequestsAtOnceAskOnce(t *testing.T) {
	h := start(t, answering(200))
	gate := make(chan struct{})
	h.ror.change(func(f *fakeRoR) { f.gate = gate })
	var g errgroup.Group
	for range 10 {
		r := h.request(http.MethodGet, "/", nil)
		g.Go(func() error {
			response, err := h.client.Do(r)
			if err != nil {
				return err
			}
			if response.StatusCode != http.StatusOK {
				err = errors.New(response.Status)
			}
			return errors.Join(err, response.Body.Close())
		})
	}
	testkit.Eventually(t, func() error {
		if n := h.value("kas_proxy_requests_running"); n != 10 {
			return fmt.Errorf("%v requests are running", n)
		}
		return nil
	})
	close(gate)
	require.NoError(t, g.Wait())
	// Those that came when the answer was known did not ask, those before share one question.
	require.Equal(t, 1, h.ror.count())
}

func TestAccess_AsWhomTheAgentAsks(t *testing.T) {
	heads := make(chan *agentrpc.HttpRequestHead, 1)
	h := start(t, noting(heads))
	h.get("/")
	require.Nil(t, (<-heads).GetImpersonation())
	h.get("/", "Impersonate-User", "bob")
	require.Equal(t, "bob", (<-heads).GetImpersonation().GetUsername())
	h.ror.change(func(f *fakeRoR) {
		f.as, f.configuration = gitlabapi.ProxyAccessAs{User: &gitlabapi.UserGrants{}}, `{"access_as":{"ci_job":{}}}`
	})
	h.get("/", "Authorization", "", "Authorization", "Bearer ci:7:job")
	require.Equal(t, "gitlab:ci_job:1", (<-heads).GetImpersonation().GetUsername())
	h.clock.Step(2 * time.Minute)
	h.get("/")
	require.Equal(t, "gitlab:user:alice", (<-heads).GetImpersonation().GetUsername())
	response, body := h.get("/", "Impersonate-User", "bob")
	refused(t, response, body, 400, `made as "gitlab:user:alice"`)
	h.get("/", "Authorization", "", "Cookie", "_gitlab_kas=session", agentHeader, "7", csrfHeader, "csrf")
	as := (<-heads).GetImpersonation()
	require.Equal(t, []string{"session_cookie"}, as.GetExtra()[2].GetValues())
}

func TestAccess_WhatLastsEndsWithIt(t *testing.T) {
	ended := make(chan error, 1)
	h := start(t, func(stream agentStream) error {
		if err := answering(200, "begun\n")(stream); err != nil {
			return err
		}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return nil
	})
	person := func() gitlabapi.ProxyAccessAs { return gitlabapi.ProxyAccessAs{User: &gitlabapi.UserGrants{}} }
	for name, change := range map[string]func(*fakeRoR){
		"a token that is revoked":   func(f *fakeRoR) { f.err = gitlabapi.ErrUnauthorized },
		"somebody who left":         func(f *fakeRoR) { f.err = gitlabapi.ErrForbidden },
		"somebody who is promoted":  func(f *fakeRoR) { f.as.User.Projects = []gitlabapi.Grant{{ID: 1, Roles: []string{"owner"}}} },
		"an agent that is the user": func(f *fakeRoR) { f.as = gitlabapi.ProxyAccessAs{Agent: &struct{}{}} },
	} {
		t.Run(name, func(t *testing.T) {
			h.clock.Step(2 * time.Minute)
			h.ror.change(func(f *fakeRoR) { f.err, f.as = nil, person() })
			response, err := h.client.Do(h.request(http.MethodGet, "/api/v1/pods?watch=1", nil))
			require.NoError(t, err)
			t.Cleanup(func() { _ = response.Body.Close() })
			await := func() {
				t.Helper()
				asked := h.ror.count()
				testkit.Eventually(t, func() error {
					if !h.clock.HasWaiters() {
						return errors.New("nobody rechecks")
					}
					return nil
				})
				h.clock.Step(time.Minute)
				testkit.Eventually(t, func() error {
					if h.ror.count() == asked {
						return errors.New("RoR was not asked")
					}
					return nil
				})
			}
			await() // all is well
			h.ror.change(func(f *fakeRoR) { f.err = gitlabapi.ErrUnavailable })
			await()
			require.Empty(t, ended, "RoR being away ends nothing")
			h.ror.change(func(f *fakeRoR) { f.err, f.as = nil, person() })
			h.ror.change(change)
			await()
			require.Error(t, <-ended)
			_, err = io.ReadAll(response.Body)
			require.Error(t, err)
			h.quiet()
		})
	}
}

func TestQuestions_AreNotMistakenForOneAnother(t *testing.T) {
	questions := map[answers.Question]bool{}
	for _, c := range []credential{
		{byToken, 1, "ab", "c"}, {byToken, 1, "a", "bc"}, {byToken, 2, "ab", "c"}, {bySession, 1, "ab", "c"}, {byJob, 1, "ab", "c"},
	} {
		questions[questionOf(c)] = true
	}
	require.Len(t, questions, 5)
	require.Equal(t, questionOf(credential{byJob, 1, "t", ""}), questionOf(credential{byJob, 2, "t", ""}))
}
