package registry

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations bring the schema from one version (its index, kept in user_version)
// to the next. Only ever append.
//
// Times are milliseconds since 1970, UTC.
var migrations = []string{`
CREATE TABLE users (
	id            INTEGER PRIMARY KEY AUTOINCREMENT,
	username      TEXT NOT NULL UNIQUE COLLATE NOCASE,
	name          TEXT NOT NULL,
	admin         INTEGER NOT NULL,
	password_hash BLOB,
	created_at    INTEGER NOT NULL
);
CREATE TABLE personal_access_tokens (
	id           INTEGER PRIMARY KEY AUTOINCREMENT,
	user_id      INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	name         TEXT NOT NULL,
	scopes       TEXT NOT NULL,
	token_hash   BLOB NOT NULL UNIQUE,
	created_at   INTEGER NOT NULL,
	last_used_at INTEGER,
	expires_at   INTEGER,
	revoked      INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE sessions (
	token_hash   BLOB PRIMARY KEY,
	kas_key_hash BLOB NOT NULL UNIQUE,
	csrf_hash    BLOB NOT NULL,
	user_id      INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	expires_at   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE namespaces (
	id         INTEGER PRIMARY KEY AUTOINCREMENT,
	full_path  TEXT NOT NULL UNIQUE COLLATE NOCASE,
	owner_id   INTEGER REFERENCES users (id),
	created_at INTEGER NOT NULL
);
CREATE TABLE projects (
	id             INTEGER PRIMARY KEY AUTOINCREMENT,
	namespace_id   INTEGER NOT NULL REFERENCES namespaces (id),
	path           TEXT NOT NULL,
	full_path      TEXT NOT NULL UNIQUE COLLATE NOCASE,
	name           TEXT NOT NULL,
	description    TEXT NOT NULL,
	visibility     TEXT NOT NULL,
	default_branch TEXT NOT NULL,
	creator_id     INTEGER NOT NULL REFERENCES users (id),
	created_at     INTEGER NOT NULL
);
CREATE TABLE members (
	project_id   INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
	user_id      INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	access_level INTEGER NOT NULL,
	created_at   INTEGER NOT NULL,
	PRIMARY KEY (project_id, user_id)
) WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user_id);
CREATE TABLE agents (
	id            INTEGER PRIMARY KEY AUTOINCREMENT,
	project_id    INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
	name          TEXT NOT NULL,
	created_by    INTEGER NOT NULL REFERENCES users (id),
	created_at    INTEGER NOT NULL,
	configuration TEXT,
	UNIQUE (project_id, name)
);
CREATE TABLE agent_tokens (
	id           INTEGER PRIMARY KEY AUTOINCREMENT,
	agent_id     INTEGER NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
	name         TEXT NOT NULL,
	description  TEXT NOT NULL,
	token_hash   BLOB NOT NULL UNIQUE,
	created_by   INTEGER NOT NULL REFERENCES users (id),
	created_at   INTEGER NOT NULL,
	last_used_at INTEGER,
	revoked      INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX agent_tokens_by_agent ON agent_tokens (agent_id);
CREATE TABLE configuration_statuses (
	agent_id INTEGER PRIMARY KEY REFERENCES agents (id) ON DELETE CASCADE,
	failed   INTEGER NOT NULL,
	status   BLOB NOT NULL
);
CREATE TABLE project_statuses (
	agent_id     INTEGER NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
	project      TEXT NOT NULL, -- as the agent's configuration names it
	project_path TEXT NOT NULL COLLATE NOCASE,
	state        INTEGER NOT NULL,
	updated_at   INTEGER NOT NULL,
	status       BLOB NOT NULL, -- without the objects
	objects      BLOB NOT NULL, -- the objects alone
	PRIMARY KEY (agent_id, project)
);
CREATE INDEX project_statuses_by_path ON project_statuses (project_path);
CREATE TABLE pushes (
	id         INTEGER PRIMARY KEY AUTOINCREMENT,
	project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
	user_id    INTEGER REFERENCES users (id) ON DELETE SET NULL,
	ref        TEXT NOT NULL,
	old_commit TEXT NOT NULL,
	new_commit TEXT NOT NULL,
	created_at INTEGER NOT NULL
);
CREATE INDEX pushes_by_project ON pushes (project_id, id);
CREATE TABLE usage_counters (
	name  TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) WITHOUT ROWID;
`, `
CREATE TABLE jobs (
	id          INTEGER PRIMARY KEY AUTOINCREMENT,
	project_id  INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
	user_id     INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	ref         TEXT NOT NULL,
	environment TEXT NOT NULL, -- empty: none
	tier        TEXT NOT NULL,
	token_hash  BLOB NOT NULL UNIQUE,
	created_at  INTEGER NOT NULL,
	expires_at  INTEGER NOT NULL,
	finished_at INTEGER
);
CREATE INDEX jobs_by_project ON jobs (project_id, id);
`}

// migrate brings the database up to date, each version in a transaction of its own.
func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version > len(migrations) {
		return fmt.Errorf("schema version %d is newer than this program, which knows %d: start the newer program", version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		// One statement list runs as a whole: BEGIN and COMMIT included.
		script := fmt.Sprintf("BEGIN IMMEDIATE;%s;PRAGMA user_version = %d;COMMIT", migrations[version], version+1)
		if _, err := db.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("bring schema to version %d: %w", version+1, err)
		}
	}
	return nil
}
