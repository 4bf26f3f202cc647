package page

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/registry"
)

// controlsView is the buttons of one manifest project in one cluster.
type controlsView struct {
	// URL below which the commands are.
	URL     string
	CSRF    string
	Project string
	// ReturnTo is the page that they stand on.
	ReturnTo string
	// ID tells the buttons of one project from another's.
	ID string
	// One that is suspended can be neither synced nor suspended, and one that its
	// configuration suspends is not resumed here.
	MayResume, MaySuspend bool
}

// byConfiguration is what kas says of who suspended a project where no person did.
const byConfiguration = "the agent's configuration"

// toControls is nil where the visitor may not administer the agent.
func toControls(v visit, agent registry.Agent, may bool, p *syncstatus.ProjectStatus) *controlsView {
	if !may {
		return nil
	}
	suspension := p.GetSuspension()
	return &controlsView{
		URL: commandsPath(agent), CSRF: v.session.CSRF, Project: p.GetProjectId(), ReturnTo: v.URL.EscapedPath(), ID: statusID(p),
		MaySuspend: suspension == nil, MayResume: suspension != nil && suspension.GetBy() != byConfiguration,
	}
}

func commandsPath(a registry.Agent) string { return agentPath(a) + "/sync_status" }

// DiffURL is where a commit is compared with the cluster.
func (c *controlsView) DiffURL() string {
	return c.URL + "/diff?" + url.Values{"manifest_project": {c.Project}}.Encode()
}

// done is what a page says after a command.
var done = map[control.Verb]string{
	control.Sync:         "The agent was told to sync: the status shows how it goes.",
	control.Suspend:      "Suspended: nothing is applied, healed or deleted until somebody resumes it.",
	control.Resume:       "Resumed: the newest commit is applied.",
	control.ApprovePrune: "Approved: what the commit leaves out is deleted now.",
}

// noteDone says on a page that a command has been carried out, if one has.
func (v visit) noteDone(p page) page {
	p.Note = done[control.Verb(v.URL.Query().Get("done"))]
	return p
}

// command carries out what a form of a status asks for, and goes back to its page.
func (s *Server) command(w http.ResponseWriter, v visit, agent registry.Agent, verb control.Verb) error {
	if _, known := done[verb]; !known {
		return errNotFound
	}
	back := localPath(v.PostFormValue("return_to"))
	if verb == control.ApprovePrune && v.PostFormValue("confirmed") != "yes" {
		return &notice{http.StatusBadRequest, "Nothing was deleted: read the list, and confirm that all of it may be deleted.", back}
	}
	err := s.control.Do(v.Context(), control.Command{
		Target: control.Target{Agent: agent, Project: v.PostFormValue("manifest_project"), By: v.user},
		Verb:   verb, Commit: v.PostFormValue("commit_id"),
	})
	if err != nil {
		return toNotice(err, back)
	}
	back, _, _ = strings.Cut(back, "?")
	http.Redirect(w, v.Request, back+"?"+url.Values{"done": {string(verb)}}.Encode(), http.StatusSeeOther)
	return nil
}

// toNotice is a command's failure for people.
func toNotice(err error, back string) error {
	var failed *control.Error
	if !errors.As(err, &failed) {
		return err
	}
	return &notice{failed.Status, sentence(failed.Message), back}
}

// sentence begins with a capital and ends with a full stop.
func sentence(text string) string {
	if text == "" {
		return text
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if strings.ContainsAny(text[len(text)-1:], ".!?") {
		return text
	}
	return text + "."
}
