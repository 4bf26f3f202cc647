package harness

import (
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// Browser looks at ror's pages as a person's does: with cookies and forms, and
// without scripts.
type Browser struct {
	f      *Fixture
	client *http.Client
}

// Page is what a browser shows.
type Page struct {
	Status int
	// Path is where redirects led to.
	Path string
	Root *html.Node
}

// NewBrowser returns one that nobody signed in with.
func (f *Fixture) NewBrowser() *Browser {
	f.T.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		f.T.Fatal(err)
	}
	return &Browser{f: f, client: &http.Client{Jar: jar, Timeout: AnswerTimeout}}
}

// Open opens a path of ror's.
func (b *Browser) Open(path string) *Page {
	b.f.T.Helper()
	req, err := http.NewRequestWithContext(b.f.T.Context(), http.MethodGet, b.f.Stack.RorURL+path, http.NoBody)
	if err != nil {
		b.f.T.Fatal(err)
	}
	return b.send(req)
}

// Submit sends a page's form to that path, its fields as the page has them except
// for those given.
func (b *Browser) Submit(p *Page, action string, fields map[string]string) *Page {
	b.f.T.Helper()
	form := url.Values{}
	found := false
	for _, node := range p.All("form", "") {
		if Attribute(node, "action") != action {
			continue
		}
		found = true
		for _, input := range (&Page{Root: node}).All("input", "") {
			form.Set(Attribute(input, "name"), Attribute(input, "value"))
		}
	}
	if !found {
		b.f.T.Fatalf("the page %s has no form for %s:\n%s", p.Path, action, p.Text())
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !form.Has(name) {
			b.f.T.Fatalf("the form for %s has no field %s: %v", action, name, form)
		}
		form.Set(name, fields[name])
	}
	req, err := http.NewRequestWithContext(b.f.T.Context(), http.MethodPost, b.f.Stack.RorURL+action, strings.NewReader(form.Encode()))
	if err != nil {
		b.f.T.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.send(req)
}

func (b *Browser) send(req *http.Request) *Page {
	b.f.T.Helper()
	resp, err := b.client.Do(req)
	if err != nil {
		b.f.T.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	root, err := html.Parse(resp.Body)
	if err != nil {
		b.f.T.Fatal(err)
	}
	return &Page{Status: resp.StatusCode, Path: resp.Request.URL.Path, Root: root}
}

// All is the elements of a name, and, unless it is empty, of a class.
func (p *Page) All(name, class string) []*html.Node {
	var all []*html.Node
	for node := range p.Root.Descendants() {
		if node.Type == html.ElementNode && node.Data == name &&
			(class == "" || slices.Contains(strings.Fields(Attribute(node, "class")), class)) {
			all = append(all, node)
		}
	}
	return all
}

// Text is what a person reads.
func (p *Page) Text() string { return Text(p.Root) }

// Text is what a person reads of an element, white space made one blank.
func Text(node *html.Node) string {
	var b strings.Builder
	for n := range node.Descendants() {
		if n.Type == html.TextNode {
			b.WriteString(n.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// Attribute is empty where the element has none of that name.
func Attribute(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
