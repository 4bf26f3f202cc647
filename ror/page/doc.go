// Package page is what people see in a browser: the agents and whether they are
// connected, and of each manifest project the commit wanted and applied, its state,
// and every object with its health and the line that it comes from. Who may administer
// an agent has buttons to sync, suspend, resume and approve of deletions, and a form
// that tells what a commit would change. Of an agent's cluster there are tables of any
// resource and single objects, as the agent answers; the values of Secrets are never
// shown.
//
// Pages are rendered on the server and whole without JavaScript; a small script
// fetches the page again every two seconds, and that of a cluster as soon as an event
// stream says that something has changed there. Everything is escaped by html/template,
// and a strict content security policy allows nothing but the embedded style sheet
// and script.
//
// Everyone must sign in. A session is a cookie that scripts cannot read; what
// changes something is a POST that carries the session's CSRF token and comes from
// this origin. A project that the user may not see is "not found".
//
// The package starts no goroutine but those of package stream, which end with their
// request.
package page
