// Package githttp serves Git over HTTP: clone, fetch and push of
// /<full path of a project>.git, through Gitaly.
//
// Who calls is known by basic authentication: user name and password, or any user
// name and a personal access token. Who did not sign in is asked to (401) for
// everything but public projects, whether or not a project of that name exists; who
// did gets 404 for what they may not see. Answers that are no Git are plain text,
// which git shows as "remote:" lines.
//
// Bodies stream through in both directions; a client that stalls is dropped. The
// only goroutine of a request is the one that the repositories start for it, and it
// ends with the request.
package githttp
