package grpctool

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestBearerToken(t *testing.T) {
	for name, row := range map[string]struct {
		header []string
		want   string
	}{
		"the usual spelling":    {[]string{"Bearer abc"}, "abc"},
		"any case":              {[]string{"bearer abc"}, "abc"},
		"none":                  {nil, ""},
		"an empty token":        {[]string{"Bearer "}, ""},
		"another scheme":        {[]string{"Basic abc"}, ""},
		"two headers":           {[]string{"Bearer abc", "Bearer def"}, ""},
		"shorter than a scheme": {[]string{"B"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": row.header})
			got, err := BearerToken(ctx)
			if got != row.want || (row.want == "") != errors.Is(err, ErrNoToken) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestTokenCredentials(t *testing.T) {
	unreadable := errors.New("no such file")
	c := TokenCredentials{Token: func() (string, error) { return "abc", nil }}
	md, err := c.GetRequestMetadata(t.Context())
	if err != nil || md["authorization"] != "Bearer abc" {
		t.Errorf("got %v, %v", md, err)
	}
	if !c.RequireTransportSecurity() {
		t.Error("a token may travel in the clear though nobody asked for that")
	}
	c.Token = func() (string, error) { return "", unreadable }
	if _, err := c.GetRequestMetadata(t.Context()); !errors.Is(err, unreadable) {
		t.Errorf("got %v", err)
	}
}

func TestWords_AreForPeople(t *testing.T) {
	refused := status.Error(codes.NotFound, "no such project")
	for want, err := range map[string]error{
		"no such project":                refused,
		"look it up: no such project":    fmt.Errorf("look it up: %w", refused),
		"it is over: something happened": fmt.Errorf("it is over: %w", errors.New("something happened")),
	} {
		if got := Words(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
