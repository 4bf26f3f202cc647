package agentk

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

var errTokenEmpty = errors.New("is empty: put the agent's token into it")

// readToken reads the agent's token. It is read anew for every stream, so that the
// file may be replaced while agentk runs.
func readToken(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("agent token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("agent token: %s %w", path, errTokenEmpty)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("agent token: %s holds more than a token", path)
	}
	return token, nil
}
