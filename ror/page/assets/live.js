// Keeps #live up to date: fetches the page again and puts the new #live in place.
(function () {
  "use strict";
  const period = 2000;
  // The focus, and what the reader folded away, stay as they are.
  function replace(live, fresh) {
    const active = live.contains(document.activeElement) ? document.activeElement : null;
    const folded = active && active.tagName === "SUMMARY" ? active.parentElement.id : "";
    if (active && !folded) return;
    for (const d of live.querySelectorAll("details[id]")) {
      const same = fresh.querySelector("#" + CSS.escape(d.id));
      if (same) same.open = d.open;
    }
    live.replaceWith(fresh);
    if (folded) fresh.querySelector("#" + CSS.escape(folded) + " > summary")?.focus();
  }
  async function refresh() {
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
    setTimeout(refresh, period);
  }
  setTimeout(refresh, period);
})();
