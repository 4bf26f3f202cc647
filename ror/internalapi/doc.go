// Package internalapi serves what kas and Gitaly's hooks ask of RoR: GitLab's
// internal API, word for word (paths and bodies in internal/gitlabapi), and
// sync_status, by which kas reports.
//
// kas proves itself with a JWT in the header Gitlab-Kas-Api-Request on every call,
// and hands on the agent's token as a bearer where it speaks for an agent. Hooks
// prove themselves with the shared secret of gitlab-shell. A CI job, or kas in its name,
// asks job/allowed_agents with the job's token and nothing else. Who proves nothing gets
// 401 and learns nothing; an agent that may not read a project gets the same 404 as
// for one that does not exist.
//
// In go requests of bounded size; out come answers, and pushes for whoever listens.
// The package starts no goroutine.
package internalapi
