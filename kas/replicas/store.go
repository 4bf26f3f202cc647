package replicas

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxPut bounds what one Put may bring.
const maxPut = 16 << 20

// ErrTooLarge is what Put returns for more than 16 MiB.
var ErrTooLarge = errors.New("too large to share between replicas")

// Put sets fields of a key that all replicas share, and has the whole key expire ttl from now.
// Other fields stay. Alone it does nothing.
func (r *Replicas) Put(ctx context.Context, key string, fields map[string][]byte, ttl time.Duration) error {
	args := make([]string, 0, 2*len(fields)+1)
	args = append(args, millis(ttl))
	size := 0
	for field, value := range fields {
		size += len(field) + len(value)
		args = append(args, field, string(value)) // a copy: it may be sent after Put has returned
	}
	if size > maxPut {
		return fmt.Errorf("put %d bytes at %s: %w", size, key, ErrTooLarge)
	}
	s, err := r.current()
	if s == nil {
		return err
	}
	_, err = s.script(ctx, "put", putScript, []string{r.storeKey(key)}, args)
	return err
}

// Remove removes fields of a key; none given: the key.
func (r *Replicas) Remove(ctx context.Context, key string, fields ...string) error {
	s, err := r.current()
	if s == nil {
		return err
	}
	command := s.client.B().Unlink().Key(r.storeKey(key)).Build()
	if len(fields) > 0 {
		command = s.client.B().Hdel().Key(r.storeKey(key)).Field(fields...).Build()
	}
	_, err = s.multi(ctx, "remove", command)
	return err
}

// Get returns the fields of a key: none where it has expired, or nobody put it.
func (r *Replicas) Get(ctx context.Context, key string) (map[string][]byte, error) {
	s, err := r.current()
	if s == nil {
		return nil, err
	}
	results, err := s.multi(ctx, "get", s.client.B().Hgetall().Key(r.storeKey(key)).Build())
	if err != nil {
		return nil, err
	}
	found, _ := results[0].AsStrMap() // multi has looked for errors
	fields := make(map[string][]byte, len(found))
	for field, value := range found {
		fields[field] = []byte(value)
	}
	return fields, nil
}

func (r *Replicas) storeKey(key string) string { return r.key("store:" + key) }
