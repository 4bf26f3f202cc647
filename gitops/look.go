package gitops

// look brings one object's status up to date, and sees to it that it is healed where
// that is due.
func (w *watcher) look(obj *watched, i int) {
	if !obj.seen {
		return
	}
	id := obj.status.ID
	live, exists := w.cluster.Live(id)
	if obj.leaving && obj.status.Action == ActionPruning && (!exists || live.UID != obj.uid) {
		obj.seen = false
		delete(w.unready, i)
		obj.status.Action, obj.status.Health, obj.status.Message = ActionPruned, HealthNotFound, ""
		w.observer.Object(obj.status)
		w.pending.gone = append(w.pending.gone, id)
		w.removing++
		w.leaving--
		return
	}
	before := obj.status
	w.examine(obj, live, exists)
	v := w.judge(obj, live, exists)
	if obj.status.Action != ActionFailed && obj.status.Action != ActionSkipped {
		obj.status.Message = w.remark(obj, v, exists)
	}
	if obj.status != before {
		w.observer.Object(obj.status)
	}
	note(w.unready, i, obj.counts() && (obj.status.Health != HealthCurrent || obj.leaving) && (exists || v != toIgnore))
	w.drifted(i, v)
	if id.GroupKind == namespaceKind && exists && !beingDeleted(live) {
		w.release(id.Name)
	}
}

// examine computes the health of an object that has changed since the last time.
func (w *watcher) examine(obj *watched, live Live, exists bool) {
	if exists && live.Object != nil && live.ResourceVersion != "" && live.ResourceVersion == obj.resourceVersion {
		return
	}
	obj.resourceVersion = ""
	if exists && live.Object != nil {
		obj.resourceVersion = live.ResourceVersion
	}
	obj.status.Health, obj.why = w.project.health(obj.status.ID, live, exists)
}

// remark is what there is to say about an object that is applied, or on its way out.
func (w *watcher) remark(obj *watched, v verdict, exists bool) string {
	message := obj.why
	if v == toIgnore {
		what := "changed"
		if !exists {
			message, what = "", "deleted"
		}
		message = addSentence(message, "somebody has "+what+" the object, which is left at that: its annotation "+DriftAnnotation+" says "+driftIgnore)
	}
	if obj.object != nil && obj.status.Contest != nil {
		if q := w.healer.memory.of(obj.status.ID, obj.object.Digest); q.contest != nil {
			message = addSentence(message, q.message())
		}
	}
	if applied(obj.status.Action) {
		return addSentence(obj.note, message)
	}
	return message
}
