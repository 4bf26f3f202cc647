package registry

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// SessionLifetime is how long a browser stays signed in.
const SessionLifetime = 7 * 24 * time.Hour

// Session is the secrets of one browser that signed in. All three come from the
// first, so the browser need keep no more than that.
type Session struct {
	// Token is the session cookie.
	Token string
	// KasKey is the cookie that the browser shows kas, which cannot act on the
	// page with it.
	KasKey string
	// CSRF is what a form that changes something must carry.
	CSRF      string
	ExpiresAt time.Time
}

func deriveSession(token string) Session {
	return Session{Token: token, KasKey: derive(token, "kas"), CSRF: derive(token, "csrf")}
}

// CreateSession signs a user in, and forgets sessions that ended.
func (r *Registry) CreateSession(ctx context.Context, userID int64) (Session, error) {
	now := r.clock.Now()
	s := deriveSession(newToken(""))
	s.ExpiresAt = now.Add(SessionLifetime)
	err := r.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "DELETE FROM sessions WHERE expires_at <= ?", now.UnixMilli()); err != nil {
			return fmt.Errorf("forget sessions that ended: %w", err)
		}
		_, err := insert(ctx, tx, "session",
			"INSERT INTO sessions (token_hash, kas_key_hash, csrf_hash, user_id, expires_at) VALUES (?, ?, ?, ?, ?)",
			hashToken(s.Token), hashToken(s.KasKey), hashToken(s.CSRF), userID, s.ExpiresAt.UnixMilli())
		return err
	})
	return s, err
}

// UserBySession returns who is signed in with a session cookie; ErrUnauthorized
// when nobody is.
func (r *Registry) UserBySession(ctx context.Context, token string) (User, Session, error) {
	u, err := one(ctx, r.read, "session", scanUser,
		"SELECT "+userColumns+" FROM sessions JOIN users ON users.id = sessions.user_id WHERE token_hash = ? AND expires_at > ?",
		hashToken(token), r.now())
	if errors.Is(err, ErrNotFound) {
		return User{}, Session{}, ErrUnauthorized
	}
	return u, deriveSession(token), err
}

// UserByKasKey returns whose browser showed kas this cookie together with this
// CSRF token; ErrUnauthorized where the two do not belong to one live session.
func (r *Registry) UserByKasKey(ctx context.Context, key, csrf string) (User, error) {
	var want []byte
	u, err := one(ctx, r.read, "session", func(s scanner) (User, error) {
		var u User
		var created int64
		err := s.Scan(&u.ID, &u.Username, &u.Name, &u.Admin, &created, &want)
		u.CreatedAt = toTime(created)
		return u, err
	}, "SELECT "+userColumns+", csrf_hash FROM sessions JOIN users ON users.id = sessions.user_id WHERE kas_key_hash = ? AND expires_at > ?",
		hashToken(key), r.now())
	if errors.Is(err, ErrNotFound) || (err == nil && subtle.ConstantTimeCompare(want, hashToken(csrf)) != 1) {
		return User{}, ErrUnauthorized
	}
	return u, err
}

// DeleteSession signs a browser out. A session that is not there is no error.
func (r *Registry) DeleteSession(ctx context.Context, token string) error {
	if _, err := r.write.ExecContext(ctx, "DELETE FROM sessions WHERE token_hash = ?", hashToken(token)); err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	return nil
}
