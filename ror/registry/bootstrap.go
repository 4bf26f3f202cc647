package registry

import (
	"context"
	"errors"
	"fmt"
)

// Bootstrap makes sure that there is an admin of that name with that personal
// access token. It changes nothing that is there already: neither another password
// nor a token that was revoked.
func (r *Registry) Bootstrap(ctx context.Context, username, password, token string) error {
	u, err := r.UserByName(ctx, username)
	if errors.Is(err, ErrNotFound) {
		u, err = r.CreateUser(ctx, NewUser{Username: username, Password: password, Admin: true})
	}
	if err != nil {
		return fmt.Errorf("create first user: %w", err)
	}
	if token == "" {
		return nil
	}
	if len(token) < 20 {
		return fmt.Errorf("first user's token: %w", &InvalidError{"token", "is too short (minimum is 20 characters)"})
	}
	_, _, err = r.CreatePersonalToken(ctx, NewPersonalToken{UserID: u.ID, Name: "bootstrap", Scopes: []string{ScopeAPI, ScopeK8sProxy}, Token: token})
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("create first user's token: %w", err)
	}
	return nil
}
