package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/bcrypt"
	"k8s.io/utils/clock"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// MaxList is the most rows that any list returns.
const MaxList = 1000

// readers is how many reads go on at once; SQLite lets them run beside one write.
const readers = 4

var (
	// ErrNotFound means that there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a name is already taken.
	ErrConflict = errors.New("already taken")
	// ErrUnauthorized means that a secret is not, or no longer, good.
	ErrUnauthorized = errors.New("unauthorized")
)

// InvalidError is a value that breaks a rule.
type InvalidError struct {
	// Field as the REST API names it.
	Field string
	// Reason completes "<field> …", for example "is too long".
	Reason string
}

// Error implements error.
func (e *InvalidError) Error() string { return e.Field + " " + e.Reason }

// Config is how to open a registry.
type Config struct {
	// Path of the database file. It and its folder are created where they are missing.
	Path string
	// Clock tells the time. Default: the real one.
	Clock clock.PassiveClock
	// PasswordCost is bcrypt's cost. Default: bcrypt's default.
	PasswordCost int
	// OnRevoked hears of each agent that, or a token of which, was taken away. It must
	// return at once. May be nil.
	OnRevoked func(agentID int64)
}

// Registry is safe for concurrent use.
type Registry struct {
	write *sql.DB // one connection: writers queue here rather than in SQLite
	read  *sql.DB
	clock clock.PassiveClock
	// onRevoked is never nil.
	onRevoked func(agentID int64)

	passwords passwords
}

// Open opens the database and brings its schema up to date.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.PasswordCost == 0 {
		cfg.PasswordCost = bcrypt.DefaultCost
	}
	if cfg.OnRevoked == nil {
		cfg.OnRevoked = func(int64) {}
	}
	path, err := createFile(cfg.Path)
	if err != nil {
		return nil, err
	}
	r := &Registry{clock: cfg.Clock, onRevoked: cfg.OnRevoked}
	if r.write, err = openPool(path, 1); err != nil {
		return nil, err
	}
	if r.read, err = openPool(path, readers, "query_only(1)"); err != nil {
		return nil, errors.Join(err, r.write.Close())
	}
	if err := r.passwords.init(cfg.PasswordCost, rand.Reader); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := migrate(ctx, r.write); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", cfg.Path, err), r.Close())
	}
	return r, nil
}

// Close waits for queries in flight and closes the database.
func (r *Registry) Close() error {
	if err := errors.Join(r.read.Close(), r.write.Close()); err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	return nil
}

// Ready returns nil when the database answers.
func (r *Registry) Ready(ctx context.Context) error {
	var one int
	if err := r.read.QueryRowContext(ctx, "SELECT 1 FROM users LIMIT 1").Scan(&one); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("ask the database: %w", err)
	}
	return nil
}

// createFile makes sure that the file exists and that only its owner may read it.
func createFile(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("database: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("create the database's folder: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("create database: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("create database: %w", err)
	}
	return path, nil
}

func openPool(path string, connections int, pragmas ...string) (*sql.DB, error) {
	query := url.Values{
		// NORMAL with a write-ahead log: a power cut may take the last commits, never
		// the database.
		"_pragma": append([]string{"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)"}, pragmas...),
		"_txlock": []string{"immediate"},
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// tx runs f in a write transaction.
func (r *Registry) tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := r.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, rollback(tx))
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// insert runs an INSERT and returns the new row's number. A broken UNIQUE
// constraint is ErrConflict, a missing parent row ErrNotFound.
func insert(ctx context.Context, tx *sql.Tx, what, query string, args ...any) (int64, error) {
	res, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", what, classify(err))
	}
	id, err := res.LastInsertId()
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", what, err)
	}
	return id, nil
}

func classify(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() {
		case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
			return ErrConflict
		case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
			return ErrNotFound
		}
	}
	return err
}

// execOne runs a statement that must touch a row; ErrNotFound where it touches none.
func (r *Registry) execOne(ctx context.Context, what, query string, args ...any) error {
	res, err := r.write.ExecContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, classify(err))
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if n == 0 {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return nil
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// queryer is a *sql.DB or *sql.Tx.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// one reads one row; ErrNotFound where there is none.
func one[T any](ctx context.Context, q queryer, what string, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	v, err := scan(q.QueryRowContext(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return v, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", what, err)
	}
	return v, nil
}

// many reads all rows.
func many[T any](ctx context.Context, q queryer, what string, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	defer func() { _ = rows.Close() }()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
		list = append(list, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	return list, nil
}

// now is the time as the database keeps it.
func (r *Registry) now() int64 { return r.clock.Now().UnixMilli() }

// toTime turns a time of the database into one of Go.
func toTime(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// toOptionalTime is toTime for a column that may be NULL, which is the zero time.
func toOptionalTime(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return toTime(ms.Int64)
}
