package contender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/bench/objects"
)

// rawParallel is how many requests are in flight. More makes no API server faster on
// a small machine.
const rawParallel = 64

// raw is the limit that nobody can pass: no bookkeeping, no decoding of answers, and
// it need not find out what has changed.
type raw struct {
	client *http.Client
	host   string
	// held is the set of each project as it was last applied.
	held map[string][]objects.Object
}

func newRaw(cfg Config) (*raw, error) {
	rc, err := cfg.restConfig()
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("make an HTTP client: %w", err)
	}
	return &raw{client: client, host: rc.Host, held: map[string][]objects.Object{}}, nil
}

func (r *raw) close() error {
	r.client.CloseIdleConnections()
	return nil
}

func (r *raw) prepare(project string, phase Phase, set []objects.Object) (syncFunc, error) {
	held := r.held[project]
	r.held[project] = set
	method, todo := http.MethodPatch, stages(set)
	switch phase {
	case Prune:
		method, todo = http.MethodDelete, stages(held)
		slices.Reverse(todo)
	case Changed:
		todo = stages(changed(held, set))
	case Cold, Unchanged:
	}
	return func(ctx context.Context) (time.Time, error) {
		for _, stage := range todo {
			if err := r.all(ctx, method, stage); err != nil {
				return time.Now(), err
			}
		}
		return time.Now(), nil
	}, nil
}

// stages puts what others need before the others.
func stages(set []objects.Object) [][]objects.Object {
	out := make([][]objects.Object, 3)
	for i := range set {
		stage := 2
		switch set[i].Kind {
		case "CustomResourceDefinition":
			stage = 0
		case "Namespace":
			stage = 1
		}
		out[stage] = append(out[stage], set[i])
	}
	return out
}

func changed(before, after []objects.Object) []objects.Object {
	known := make(map[string]struct{}, len(before))
	for i := range before {
		known[string(before[i].JSON)] = struct{}{}
	}
	var out []objects.Object
	for i := range after {
		if _, same := known[string(after[i].JSON)]; !same {
			out = append(out, after[i])
		}
	}
	return out
}

// all sends one request for each object and, after definitions, waits until they are
// served.
func (r *raw) all(ctx context.Context, method string, set []objects.Object) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(rawParallel)
	for i := range set {
		o := &set[i]
		g.Go(func() error {
			if method == http.MethodDelete {
				return r.send(ctx, method, path(o), "", []byte(`{"propagationPolicy":"Background"}`))
			}
			err := r.send(ctx, method, path(o)+"?fieldManager=bench&force=true", "application/apply-patch+yaml", o.JSON)
			if err != nil || o.Kind != "CustomResourceDefinition" {
				return err
			}
			return r.awaitServed(ctx, o.Name)
		})
	}
	return g.Wait()
}

// path of an object. All kinds of ours have regular plurals.
func path(o *objects.Object) string {
	base := "/apis/" + o.APIVersion
	if !strings.Contains(o.APIVersion, "/") {
		base = "/api/" + o.APIVersion
	}
	if o.Namespace != "" {
		base += "/namespaces/" + o.Namespace
	}
	return base + "/" + strings.ToLower(o.Kind) + "s/" + o.Name
}

// awaitServed asks for the objects of a definition until the answer is a list.
func (r *raw) awaitServed(ctx context.Context, definition string) error {
	plural, group, _ := strings.Cut(definition, ".")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.send(ctx, http.MethodGet, "/apis/"+group+"/v1/"+plural+"?limit=1", "", nil)
		if err == nil || !errors.Is(err, errStatus) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", definition, ctx.Err())
		}
	}
}

var errStatus = errors.New("unexpected status")

// send does one request and reads the answer without looking at it.
func (r *raw) send(ctx context.Context, method, path, contentType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, r.host+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	if contentType == "" {
		contentType = "application/json"
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return err //nolint:wrapcheck // it names method and URL
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end below
	if resp.StatusCode >= http.StatusBadRequest {
		answer, err := io.ReadAll(resp.Body)
		return errors.Join(fmt.Errorf("%s %s: %w %d: %s", method, path, errStatus, resp.StatusCode, bytes.TrimSpace(answer)), err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
