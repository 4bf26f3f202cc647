package sandbox

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// writeKubeconfig writes a kubeconfig with one context, named "sandbox".
func writeKubeconfig(path, host string, ca []byte, token, namespace string) error {
	const name = "sandbox"
	setting := map[string]any{"cluster": name, "user": name}
	if namespace != "" {
		setting["namespace"] = namespace
	}
	data, err := yaml.Marshal(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": name,
		"clusters": []any{map[string]any{
			"name":    name,
			"cluster": map[string]any{"server": host, "certificate-authority-data": ca},
		}},
		"users": []any{map[string]any{
			"name": name,
			"user": map[string]any{"token": token},
		}},
		"contexts": []any{map[string]any{"name": name, "context": setting}},
	})
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}
