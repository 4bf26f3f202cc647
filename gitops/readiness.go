package gitops

import (
	"slices"

	"github.com/kas-agentk/kas/inventory"
)

func note(set map[int]struct{}, i int, in bool) {
	if in {
		set[i] = struct{}{}
	} else {
		delete(set, i)
	}
}

// sum tells the readiness if it has changed.
func (w *watcher) sum() {
	if w.config.OnReadiness == nil {
		return
	}
	now := Readiness{Ready: len(w.unready) == 0 && w.removing == 0, Retry: w.retry, Drifted: w.list(w.rerun, func(*watched) bool { return true })}
	if w.appliesLate || w.prunesLate {
		now.Late = w.list(w.unready, func(obj *watched) bool {
			return obj.leaving && w.prunesLate || !obj.leaving && w.appliesLate
		})
	}
	if w.told != nil && w.told.Ready == now.Ready && w.told.Retry == now.Retry &&
		slices.Equal(w.told.Late, now.Late) && slices.Equal(w.told.Drifted, now.Drifted) {
		return
	}
	w.told = &now
	w.config.OnReadiness(now)
}

func (w *watcher) list(set map[int]struct{}, keep func(*watched) bool) []inventory.ID {
	indexes := make([]int, 0, len(set))
	for i := range set {
		if keep(&w.objects[i]) {
			indexes = append(indexes, i)
		}
	}
	slices.Sort(indexes)
	ids := make([]inventory.ID, 0, len(indexes))
	for _, i := range indexes {
		ids = append(ids, w.objects[i].status.ID)
	}
	return ids
}
