package internalapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/ror/registry"
)

func TestAllowed_ByAccess(t *testing.T) {
	h := newHouse(t)
	reporter := h.addUser("reporter", false)
	stranger := h.addUser("stranger", false)
	_, err := h.reg.SetMember(t.Context(), h.agent.Project.ID, reporter.ID, registry.Reporter)
	require.NoError(t, err)
	body := func(repository, who string) string {
		return fmt.Sprintf(`{"action":"git-receive-pack","gl_repository":%q,"project":"/x.git","changes":"o n refs/heads/main\n","protocol":"http","env":"{}",%s}`, repository, who)
	}
	for _, row := range []struct {
		name, body string
		code       int
		reason     string
	}{
		{"an admin may push", body("project-1", `"user_id":"1"`), 200, ""},
		{"so may one who is named", body("project-1", `"username":"root"`), 200, ""},
		{"a reporter may not", body("project-1", fmt.Sprintf(`"user_id":"%d"`, reporter.ID)), 401, "ask its maintainer for the developer role"},
		{"a stranger does not learn of the project", body("project-1", fmt.Sprintf(`"user_id":"%d"`, stranger.ID)), 404, "could not be found"},
		{"an unknown user is told so", body("project-1", `"user_id":"99"`), 401, "not known"},
		{"a key is no user here", body("project-1", `"key_id":"1"`), 401, "not known"},
		{"a project that is not there", body("project-9", `"user_id":"1"`), 404, "could not be found"},
		{"a wiki is no project", body("wiki-1", `"user_id":"1"`), 404, "could not be found"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := h.in(t)
			var answer struct {
				Status     bool   `json:"status"`
				Message    string `json:"message"`
				GLID       string `json:"gl_id"`
				GLUsername string `json:"gl_username"`
			}
			require.Equal(t, row.code, h.do(h.hook("allowed", row.body), &answer))
			require.Equal(t, row.code == http.StatusOK, answer.Status)
			if row.reason == "" {
				require.Equal(t, "user-1", answer.GLID)
				require.Equal(t, "root", answer.GLUsername)
				return
			}
			require.Contains(t, answer.Message, row.reason)
			require.NotContains(t, answer.Message, "%", "the hook takes the message for a format")
		})
	}
}

func TestPostReceive_RecordsThePushAndShowsWhereToLook(t *testing.T) {
	h := newHouse(t)
	require.Equal(t, http.StatusOK, h.do(h.hook("pre_receive", `{"gl_repository":"project-1"}`), &struct{}{}))
	zero, commit := strings.Repeat("0", 40), strings.Repeat("a", 40)
	body := fmt.Sprintf(`{"gl_repository":"project-1","identifier":"user-1","push_options":null,"changes":"%[1]s %[2]s refs/heads/main\n%[2]s %[1]s refs/heads/old\n"}`, zero, commit)
	var answer json.RawMessage
	require.Equal(t, http.StatusOK, h.do(h.hook("post_receive", body), &answer))
	require.JSONEq(t, `{"reference_counter_decreased":true,"messages":[{"type":"basic","message":"To see how this reaches your clusters, visit:\n  http://ror/root/config"}]}`, string(answer))
	require.Equal(t, []registry.Push{{
		Project: h.agent.Project, UserID: 1, At: h.clock.Now(),
		Changes: []registry.RefChange{{Ref: "refs/heads/main", Old: zero, New: commit}, {Ref: "refs/heads/old", Old: commit, New: zero}},
	}}, h.pushes)
	last, err := h.reg.LastPush(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, h.clock.Now(), last)

	require.Equal(t, http.StatusBadRequest, h.do(h.hook("post_receive", `{"gl_repository":"project-1","identifier":"user-1","changes":"nonsense"}`), nil))
	require.Len(t, h.pushes, 1)
}

func TestCheck_SaysWhoThisIs(t *testing.T) {
	h := newHouse(t)
	r := h.hook("check", "")
	r.Method = http.MethodGet
	var answer map[string]any
	require.Equal(t, http.StatusOK, h.do(r, &answer))
	require.Equal(t, "v4", answer["api_version"])
}
