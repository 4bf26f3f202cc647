// Keeps #live up to date: fetches the page again and puts the new #live in place, every
// now and then, and at once when an event stream (data-changes) says that it changed.
(function () {
  "use strict";
  const period = 2000; // ms
  const pause = 150; // ms, at least, between two
  let timer = 0;
  let busy = false; // fetching
  let soon = false; // something has changed since
  let changes = null; // the event stream
  // What finds an element again in the page to come; empty: nothing does.
  function selector(element) {
    if (element.id) return "#" + CSS.escape(element.id);
    if (element.tagName === "SUMMARY" && element.parentElement.id) return selector(element.parentElement) + " > summary";
    return "";
  }
  // The focus, what the reader folded away and what is ticked stay as they are.
  function replace(live, fresh) {
    const active = live.contains(document.activeElement) ? document.activeElement : null;
    const focused = active ? selector(active) : "";
    if (active && !focused) return;
    for (const old of live.querySelectorAll("details[id], input[type=checkbox][id]")) {
      const same = fresh.querySelector(selector(old));
      if (!same) continue;
      if (old.tagName === "DETAILS") same.open = old.open;
      else same.checked = old.checked;
    }
    live.replaceWith(fresh);
    if (focused) fresh.querySelector(focused)?.focus();
  }
  async function refresh() {
    busy = true;
    soon = false;
    try {
      if (!document.hidden) {
        const response = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
        if (response.ok) {
          const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("live");
          const live = document.getElementById("live");
          if (fresh && live && fresh.innerHTML !== live.innerHTML) replace(live, fresh);
        }
      }
    } catch (e) {
      // The server is away for a moment: the next try may find it.
    }
    busy = false;
    listen();
    timer = setTimeout(refresh, soon ? pause : period);
  }
  function refreshSoon() {
    if (!busy && !soon) {
      clearTimeout(timer);
      timer = setTimeout(refresh, pause);
    }
    soon = true;
  }
  // A hidden page needs no stream: browsers have few connections to one server.
  function listen() {
    const url = document.getElementById("live")?.dataset.changes;
    if (!url || document.hidden) {
      changes?.close();
      changes = null;
    } else if (!changes || changes.readyState === EventSource.CLOSED) {
      changes = new EventSource(url);
      changes.onmessage = refreshSoon;
    }
  }
  document.addEventListener("visibilitychange", function () {
    listen();
    if (!document.hidden) refreshSoon();
  });
  listen();
  timer = setTimeout(refresh, period);
})();
