package kasctl

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// startDoctor serves a file of testdata for agent 1 of project 4.
func startDoctor(t *testing.T, name string) {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, file := range map[string]string{
		"GET /api/v4/cluster_agents":                     "agents.json",
		"GET /api/v4/projects/4/cluster_agents/1/doctor": name,
	} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		require.NoError(t, err)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Setenv("ROR_URL", server.URL)
	t.Setenv("ROR_TOKEN", "glpat-1")
}

func TestDoctor_HasALineForEachCheck(t *testing.T) {
	startDoctor(t, "doctor.json")
	status, out, errs := call(t, "doctor", "1")
	require.Equal(t, 1, status)
	require.Contains(t, errs, ": 2 checks fail")
	golden(t, "doctor.txt", out)

	status, out, _ = call(t, "doctor", "1", "-o", "yaml")
	require.Equal(t, 1, status, "as with a table")
	golden(t, "doctor.yaml", out)
}

func TestDoctor_WarningsAreNoFailure(t *testing.T) {
	startDoctor(t, "doctor-warn.json")
	status, out, errs := call(t, "doctor", "1")
	require.Equal(t, 0, status, errs)
	golden(t, "doctor-warn.txt", out)
}

func TestDoctor_IsCalledWrongly(t *testing.T) {
	startDoctor(t, "doctor.json")
	for _, args := range [][]string{{"doctor"}, {"doctor", "1", "2"}, {"doctor", "1", "-o", "xml"}} {
		status, _, _ := call(t, args...)
		require.Equal(t, 2, status, args)
	}
	status, _, errs := call(t, "doctor", "nobody")
	require.Equal(t, 1, status)
	require.Contains(t, errs, `no agent "nobody"`)
}
