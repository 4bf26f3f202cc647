// Package registry is RoR's memory: users and their tokens and sessions, projects
// and who may do what with them, agents and their tokens, the newest sync status
// of each agent and project, the pushes that happened, and CI jobs.
//
// In go plain values and the secrets that people and programs present; out come
// plain values and typed errors: ErrNotFound, ErrConflict, ErrUnauthorized and
// *InvalidError. The database behind it (SQLite) does not show.
//
// Invariants:
//   - No secret is stored. Random tokens are kept as their SHA-256, passwords as
//     bcrypt; a token is returned once, by the call that makes it.
//   - Numbers of users, projects, agents and jobs are never used twice.
//   - A full path names one thing: a namespace or a project, in any case of letters.
//   - Of one agent and project only the newest status is kept; a late one is dropped.
//   - Every list is bounded.
//
// The registry starts no goroutine of its own (database/sql keeps one for its pool,
// which Close ends).
package registry
