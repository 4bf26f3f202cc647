package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.com/web}]}
`

// TestStatus_AllTellersAgree compares what the page, kasctl and ror's REST say of
// objects good and bad, and all of them with what kubectl finds.
func TestStatus_AllTellersAgree(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1")+"---\n"+harness.ConfigMap("b", "1"))
	f.Manifests.Write("web.yaml", deployment)
	f.Manifests.Write("<odd> & name.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: odd}\n")
	f.Manifests.Write("lost.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: lost\n  namespace: not-there-"+f.Name+"\n")
	f.Manifests.Write("broken.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: [\n")
	commit := f.Manifests.Push("Good and bad")
	f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		// What failed is tried again soon, and then the rest is unchanged.
		if c := s.GetCounts(); c.GetCreated()+c.GetUnchanged() != 4 || c.GetFailed() != 1 || c.GetUnhealthy() != 1 {
			return fmt.Errorf("the counts are %v", c)
		}
		return harness.Is(syncstatus.State_STATE_PARTIAL, commit)(s)
	})

	browser := f.NewBrowser()
	path := "/" + f.Config.Path + "/-/cluster_agents/" + f.Name
	signIn(t, f, browser, path)
	var status *syncstatus.ProjectStatus
	f.Eventually(func() error {
		var err error
		if status, err = f.Status(); err != nil {
			return err
		}
		if diff := cmp.Diff(fromREST(status), fromPage(t, browser.Open(path), f.Manifests.Path)); diff != "" {
			return fmt.Errorf("the page tells (+) otherwise than REST (-):\n%s", diff)
		}
		told, err := kasctlStatus(f)
		if err != nil {
			return err
		}
		if diff := cmp.Diff([]*syncstatus.ProjectStatus{status}, told, protocmp.Transform()); diff != "" {
			return fmt.Errorf("kasctl tells (+) otherwise than REST (-):\n%s", diff)
		}
		return nil
	})

	// And it is true.
	if diff := cmp.Diff([]string{"a", "b", "lost", "odd", "web"}, names(status, false)); diff != "" {
		t.Errorf("objects told of (+) are not those of the repository (-):\n%s", diff)
	}
	found := kubectl(t, f, "get", "configmaps,secrets,deployments.apps", "-n", f.Name, "-o", "name")
	found = strings.Replace(found, "configmap/kube-root-ca.crt\n", "", 1) // Kubernetes makes it
	if want := "configmap/a\nconfigmap/b\nsecret/odd\ndeployment.apps/web\n"; found != want {
		t.Errorf("kubectl finds\n%swant\n%s", found, want)
	}
	if diff := cmp.Diff([]string{"a", "b", "odd", "web"}, names(status, true)); diff != "" {
		t.Errorf("objects said to be there (+) are not those that kubectl finds (-):\n%s", diff)
	}
	if e := status.GetErrors(); len(e) != 1 || e[0].GetPath() != "broken.yaml" || e[0].GetLine() == 0 {
		t.Errorf("the errors are %v", e)
	}
}

func TestPage_FormsWantTheSessionsToken(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	browser := f.NewBrowser()
	path := "/" + f.Config.Path + "/-/cluster_agents/" + f.Name
	if p := browser.Open(path); p.Path != "/-/sign_in" {
		t.Fatalf("a stranger is shown %s: %s", p.Path, p.Text())
	}
	p := browser.Submit(browser.Open(path), "/-/sign_in", map[string]string{"username": stack.User, "password": "wrong"})
	if p.Status != http.StatusUnauthorized || !strings.Contains(p.Text(), "User name or password is wrong.") {
		t.Errorf("a wrong password is answered with %d: %s", p.Status, p.Text())
	}
	p = signIn(t, f, browser, path)
	forged := browser.Submit(p, path+"/tokens", map[string]string{"name": "mine", "csrf": "forged"})
	if forged.Status != http.StatusForbidden {
		t.Errorf("a forged form is answered with %d: %s", forged.Status, forged.Text())
	}
	made := browser.Submit(p, path+"/tokens", map[string]string{"name": "mine"})
	if made.Status != http.StatusCreated || !strings.Contains(made.Text(), "Token of agent "+f.Name) {
		t.Fatalf("the form is answered with %d: %s", made.Status, made.Text())
	}
	// The token that the page shows is one to connect with.
	f.Token.Token = harness.Text(made.All("pre", "")[0])
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	f.Configure("default_namespace: " + f.Name)
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	f.WaitSynced(commit)
}

// signIn goes to a path through the form.
func signIn(t *testing.T, f *harness.Fixture, b *harness.Browser, path string) *harness.Page {
	t.Helper()
	p := b.Submit(b.Open(path), "/-/sign_in", map[string]string{"username": stack.User, "password": f.Stack.Password})
	if p.Status != http.StatusOK || p.Path != path {
		t.Fatalf("signing in led to %s, %d: %s", p.Path, p.Status, p.Text())
	}
	return p
}

// told is what a person reads of one project, its objects and errors ordered.
type told struct {
	State, Message, Ref, Wanted, Applied string
	Errors, Objects                      []string
}

func fromREST(s *syncstatus.ProjectStatus) told {
	all := told{
		State: words(s.GetState().String()), Message: oneLine(s.GetMessage()), Ref: s.GetRef(),
		Wanted: s.GetWantedCommit(), Applied: s.GetAppliedCommit(),
	}
	for _, e := range s.GetErrors() {
		all.Errors = append(all.Errors, fmt.Sprintf("%s:%d: %s", e.GetPath(), e.GetLine(), oneLine(e.GetMessage())))
	}
	for _, o := range s.GetObjects() {
		kind := o.GetId().GetKind()
		if o.GetId().GetGroup() != "" {
			kind += " (" + o.GetId().GetGroup() + ")"
		}
		all.Objects = append(all.Objects, strings.Join([]string{
			kind, o.GetId().GetNamespace() + "/" + o.GetId().GetName(), words(o.GetAction().String()), words(o.GetHealth().String()),
			oneLine(o.GetMessage()), fmt.Sprintf("%s:%d", o.GetSourcePath(), o.GetSourceLine()),
		}, " | "))
	}
	slices.Sort(all.Errors)
	slices.Sort(all.Objects)
	return all
}

// fromPage reads a project's card.
func fromPage(t *testing.T, p *harness.Page, project string) told {
	t.Helper()
	var card *harness.Page
	for _, section := range p.All("section", "card") {
		if harness.Attribute(section, "aria-label") == project {
			card = &harness.Page{Root: section}
		}
	}
	if card == nil {
		t.Fatalf("the page %s (%d) has no card for %s: %s", p.Path, p.Status, project, p.Text())
	}
	all := told{State: harness.Text(card.All("span", "badge")[0])}
	if paragraphs := card.All("p", ""); len(paragraphs) > 0 && paragraphs[0].Parent == card.Root && !strings.HasPrefix(harness.Text(paragraphs[0]), "Mistakes") {
		all.Message = harness.Text(paragraphs[0])
	}
	terms, facts := card.All("dt", ""), card.All("dd", "")
	for i, term := range terms {
		switch harness.Text(term) {
		case "Follows":
			all.Ref = harness.Text(facts[i])
		case "Commit wanted":
			all.Wanted = wholeCommit(facts[i])
		case "Commit applied":
			all.Applied = wholeCommit(facts[i])
		}
	}
	for _, item := range card.All("li", "") {
		all.Errors = append(all.Errors, harness.Text(item))
	}
	for _, row := range card.All("tr", "")[1:] {
		var cells []string
		for _, cell := range (&harness.Page{Root: row}).All("td", "") {
			cells = append(cells, harness.Text(cell))
		}
		all.Objects = append(all.Objects, strings.Join(cells, " | "))
	}
	slices.Sort(all.Errors)
	slices.Sort(all.Objects)
	return all
}

// wholeCommit is the title of a commit that is shown shortened.
func wholeCommit(fact *html.Node) string {
	for _, code := range (&harness.Page{Root: fact}).All("code", "") {
		return harness.Attribute(code, "title")
	}
	return ""
}

// words is a name of the protocol without its prefix, as pages show it.
func words(name string) string {
	_, name, _ = strings.Cut(name, "_")
	name = strings.ToLower(strings.ReplaceAll(name, "_", " "))
	return strings.ToUpper(name[:1]) + name[1:]
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// kasctlStatus runs kasctl and reads the JSON that it prints.
func kasctlStatus(f *harness.Fixture) ([]*syncstatus.ProjectStatus, error) {
	cmd := exec.CommandContext(f.T.Context(), f.Programs.Kasctl, "status", f.Config.Path+":"+f.Name, "-o", "json")
	cmd.Env = append(os.Environ(), "ROR_URL="+f.Stack.RorURL, "ROR_TOKEN="+f.Stack.Token)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("kasctl: %w\n%s", err, out)
	}
	var answer struct {
		Projects []json.RawMessage `json:"projects"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("kasctl printed %q: %w", out, err)
	}
	var all []*syncstatus.ProjectStatus
	for _, raw := range answer.Projects {
		s := &syncstatus.ProjectStatus{}
		if err := protojson.Unmarshal(raw, s); err != nil {
			return nil, fmt.Errorf("kasctl printed %q: %w", raw, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func kubectl(tb testing.TB, f *harness.Fixture, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), harness.CommandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, f.Cluster.Kubectl, append([]string{"--kubeconfig", f.Cluster.Kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		tb.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// names of a status's objects, ordered; of those that are there, or of all.
func names(s *syncstatus.ProjectStatus, there bool) []string {
	var all []string
	for _, o := range s.GetObjects() {
		if !there || o.GetHealth() == syncstatus.Health_HEALTH_CURRENT && o.GetAction() != syncstatus.Action_ACTION_FAILED {
			all = append(all, o.GetId().GetName())
		}
	}
	slices.Sort(all)
	return all
}
