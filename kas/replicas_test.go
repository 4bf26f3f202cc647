package kas

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestOwnURL_IsTheFirstThatIsSaid(t *testing.T) {
	one, every := &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 8155}, &net.TCPAddr{IP: net.IPv4zero, Port: 8155}
	for _, row := range []struct {
		name, own, variable, certificate string
		listening                        net.Addr
		want, err                        string
	}{
		{"the configuration says it", "grpcs://kas-0.kas:8155/", "grpc://a:1", "", every, "grpcs://kas-0.kas:8155", ""},
		{"the environment says it", "", "grpc://[::1]:1", "", one, "grpc://[::1]:1", ""},
		{"the listener has one address", "", "", "", one, "grpc://10.1.2.3:8155", ""},
		{"the listener has one address, and a certificate", "", "", "c", one, "grpcs://10.1.2.3:8155", ""},
		{"the listener has every address", "", "", "", every, "", `private_api.own_url: private_api.listen.address is ":8155", every address of this machine`},
		{"the environment says something else", "", "10.1.2.3", "", one, "", "environment variable OWN_PRIVATE_API_URL"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv(ownURLVariable, row.variable)
			got, err := ownURL(&kascfg.PrivateApi{OwnUrl: row.own, Listen: &kascfg.Listen{Address: ":8155", CertificateFile: row.certificate}}, row.listening)
			if row.err != "" {
				require.ErrorContains(t, err, row.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}

func TestNewMany_NamesTheMistake(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for _, row := range []struct{ name, redis, api, want string }{
		{"a secret that is too short", "", "listen: {authentication_secret_file: " + empty + "}", "kas.yaml:5: private_api.listen.authentication_secret_file"},
		{"a password that is not there", "password_file: /nowhere", "", "kas.yaml:4: redis.password_file"},
		{"a certificate that is not there", "tls: {enabled: true, certificate_file: /nowhere, key_file: /nowhere}", "", "kas.yaml:4: redis.tls.certificate_file"},
		{"authorities that are none", "tls: {enabled: true, ca_certificate_file: " + empty + "}", "", "kas.yaml:4: redis.tls.ca_certificate_file"},
		{"authorities of replicas that are not there", "", "ca_certificate_file: /nowhere", "kas.yaml:5: private_api.ca_certificate_file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			secretFile := filepath.Join(t.TempDir(), "secret")
			require.NoError(t, os.WriteFile(secretFile, []byte("c2Vjc2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"), 0o600))
			if row.redis != "" {
				row.redis = ", " + row.redis
			}
			api := "listen: {authentication_secret_file: " + secretFile + "}"
			if row.api != "" && row.api[:2] == "li" {
				api = row.api
			} else if row.api != "" {
				api += ", " + row.api
			}
			path := writeConfiguration(t, required+"redis: {server: {address: 'localhost:1'}"+row.redis+"}\nprivate_api: {"+api+"}\n")
			_, err := newMany(load(t, path), listener, nil, testkit.Logger(t), prometheus.NewRegistry())
			require.ErrorContains(t, locate(path, err), row.want)
		})
	}
}
