package query

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
)

func (s *Server) list(req *clusterstate.ListRequest, stream grpc.ServerStream) error {
	q, err := questionOf(req.GetQuery())
	if err != nil {
		return err
	}
	var after *objects.Key
	if req.GetContinue() != "" {
		key, err := q.readContinue(req.GetContinue())
		if err != nil {
			return err
		}
		after = &key
	}
	ctx := stream.Context()
	view, err := s.source.open(ctx, q.gvr, q.view)
	if err != nil {
		return err
	}
	defer view.Release()
	matches, err := s.matcher(ctx, q)
	if err != nil {
		return err
	}
	fresh, columns := view.Freshness(), view.Columns()
	if err := fits(q, fresh.Namespaced); err != nil {
		return err
	}
	all, _ := view.List(q.filter.namespace)
	if matches != nil && req.GetLimit() == 0 {
		// It is good to know how many there will be.
		all, matches = wanted(all, matches), nil
	}
	p := &pager{
		parts:   parts{stream: stream},
		encoder: newEncoder(q.form, q.view, columns, s.cfg.Clock.Now()),
		matches: matches,
		limit:   int(req.GetLimit()),
	}
	if err := p.parts.add(&clusterstate.ListResponse{Source: sourceOf(fresh), Columns: columnsOf(columns)}); err != nil {
		return err
	}
	err = p.page(beyond(all, after))
	s.metrics.items.WithLabelValues("List").Add(float64(p.told))
	if err != nil {
		return err
	}
	end := &clusterstate.ListResponse{Remaining: uint64(p.left)}
	if p.left > 0 {
		end.Continue = q.continueAfter(p.last)
	}
	if err := p.parts.add(end); err != nil {
		return err
	}
	return p.parts.send()
}

// fits says whether the namespace of a question makes sense.
func fits(q *question, namespaced bool) error {
	if !namespaced && q.filter.namespace != "" {
		return invalid("%s are in no namespace: leave namespace out", resourceName(q.gvr))
	}
	return nil
}

// matcher returns what tells the objects that are wanted; nil: all are.
func (s *Server) matcher(ctx context.Context, q *question) (func(*objects.Object) bool, error) {
	switch {
	case q.joined:
		whole, err := s.source.open(ctx, q.gvr, objects.Whole)
		if err != nil {
			return nil, err
		}
		defer whole.Release()
		return isIn(q, whole), nil
	case q.filter.labels == nil && len(q.filter.fields) == 0:
		return nil, nil //nolint:nilnil // documented
	default:
		return q.filter.matches, nil
	}
}

// isIn returns what tells the rows of the objects that are wanted as of now.
func isIn(q *question, whole objects.View) func(*objects.Object) bool {
	all, _ := whole.List(q.filter.namespace)
	selected := keysOf(wanted(all, q.filter.matches))
	return func(row *objects.Object) bool {
		_, ok := selected[keyOf(row)]
		return ok
	}
}

func keyOf(o *objects.Object) objects.Key { return objects.Key{Namespace: o.Namespace, Name: o.Name} }

// beyond returns the objects after a key; nil: all.
func beyond(all []*objects.Object, after *objects.Key) []*objects.Object {
	if after == nil {
		return all
	}
	i, found := slices.BinarySearchFunc(all, *after, func(o *objects.Object, k objects.Key) int {
		return cmp.Or(cmp.Compare(o.Namespace, k.Namespace), cmp.Compare(o.Name, k.Name))
	})
	if found {
		i++
	}
	return all[i:]
}

// pager sends one page of a List.
type pager struct {
	parts   parts
	encoder *encoder
	// matches tells the objects that are wanted; nil: all are.
	matches func(*objects.Object) bool
	// limit of items; zero: none.
	limit int

	// told is how many items there were, last the key of the newest, and left how many
	// more are wanted.
	told int
	last objects.Key
	left int
}

func (p *pager) page(all []*objects.Object) error {
	for i, o := range all {
		if p.limit > 0 && p.told == p.limit && p.matches == nil {
			p.left = len(all) - i
			return nil
		}
		if p.matches != nil && !p.matches(o) {
			continue
		}
		if p.limit > 0 && p.told == p.limit {
			p.left++
			continue
		}
		size := p.encoder.encode(o, false)
		if p.parts.full(itemSize(size)) {
			if err := p.parts.send(); err != nil {
				return err
			}
		}
		p.parts.expect(p.expected(len(all)-i), size)
		p.parts.item(p.encoder, size)
		p.told++
		p.last = keyOf(o)
	}
	return nil
}

// expected is how many of so many objects the page is likely to hold.
func (p *pager) expected(objects int) int {
	switch {
	case p.limit > 0:
		return min(objects, p.limit-p.told)
	default:
		return objects
	}
}
