package kas

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/protoconf"
)

const example = "../docs/kas-configuration-example.yaml"

// required is what has no default.
const required = `gitlab:
  address: https://gitlab.example.com
  authentication_secret_file: /etc/kas/authentication_secret
`

// replicated says where Redis is.
const replicated = "redis: {server: {address: 'localhost:6379'}}\n"

func writeConfiguration(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kas.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string) *kascfg.ConfigurationFile {
	t.Helper()
	cfg, err := LoadConfiguration(path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestExample_SaysTheDefaults(t *testing.T) {
	// What the example says by itself, before any default is filled in.
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	written := &kascfg.ConfigurationFile{}
	if err := protoconf.Unmarshal(example, data, written); err != nil {
		t.Fatal(err)
	}
	want := DefaultConfiguration()
	want.Gitlab.Address = "https://gitlab.example.com"
	want.Gitlab.AuthenticationSecretFile = "/etc/kas/authentication_secret"
	if diff := cmp.Diff(want, written, protocmp.Transform()); diff != "" {
		t.Errorf("the example differs from the defaults in the code (- code, + example):\n%s", diff)
	}
	if diff := cmp.Diff(load(t, writeConfiguration(t, required)), load(t, example), protocmp.Transform()); diff != "" {
		t.Errorf("the example is not what the shortest file is:\n%s", diff)
	}
}

// meaningless are keys that a listener's schema has, but not that listener.
var meaningless = map[string]bool{
	"agent.listen.authentication_secret_file":         true,
	"observability.listen.authentication_secret_file": true,
	"observability.listen.max_connection_age":         true,
	"api.listen.websocket":                            true,
	"observability.listen.websocket":                  true,

	"agent.kubernetes_api.listen.max_connection_age":         true,
	"agent.kubernetes_api.listen.authentication_secret_file": true,
	"agent.kubernetes_api.listen.websocket":                  true,

	"private_api.listen.max_connection_age":             true,
	"private_api.listen.websocket":                      true,
	"private_api.listen.connection_rate_limit":          true,
	"agent.kubernetes_api.listen.connection_rate_limit": true,
	"observability.listen.connection_rate_limit":        true,
	"api.listen.connection_rate_limit":                  true,
}

func TestExample_MentionsEveryKey(t *testing.T) {
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	// "#key:" is a key that is commented out; "# text" is prose.
	full := regexp.MustCompile(`(?m)^(\s*)#([a-z_]+:)`).ReplaceAllString(string(data), "$1$2")
	cfg := &kascfg.ConfigurationFile{}
	if err := protoconf.Unmarshal(example, []byte(full), cfg); err != nil {
		t.Fatal(err)
	}
	for _, key := range unset(cfg.ProtoReflect(), "") {
		if !meaningless[key] {
			t.Errorf("the example does not mention %s", key)
		}
	}
}

func unset(m protoreflect.Message, prefix string) []string {
	var missing []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		key := prefix + string(field.Name())
		switch {
		case !m.Has(field):
			missing = append(missing, key)
		case field.Message() != nil && field.Message().FullName() != durationName:
			missing = append(missing, unset(m.Get(field).Message(), key+".")...)
		}
	}
	return missing
}

func TestLoadConfiguration_KeepsWhatTheFileSays(t *testing.T) {
	cfg := load(t, writeConfiguration(t, required+`  api_rate_limit: {refill_rate_per_second: 7}
agent:
  info_cache_ttl: 0s
  token_rate_limit: {refill_rate_per_second: 0}
  listen: {address: "127.0.0.1:0"}
  gitops: {poll_period: 1s}
`))
	want := load(t, writeConfiguration(t, required))
	want.Gitlab.ApiRateLimit.RefillRatePerSecond = proto.Float64(7)
	want.Agent.InfoCacheTtl.Reset()
	want.Agent.TokenRateLimit.RefillRatePerSecond = proto.Float64(0)
	want.Agent.Listen.Address = "127.0.0.1:0"
	want.Agent.Gitops.PollPeriod.Seconds = 1
	if diff := cmp.Diff(want, cfg, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if cfg.GetApi().GetListen().GetAuthenticationSecretFile() != cfg.GetGitlab().GetAuthenticationSecretFile() {
		t.Error("the API's secret is not that of gitlab")
	}
}

func TestLoadConfiguration_NamesTheMistake(t *testing.T) {
	for name, row := range map[string]struct{ file, want string }{
		"a key that does not exist": {
			required + "agent:\n  gitops:\n    poll_perod: 1s\n",
			`kas.yaml:6: unknown field "poll_perod"`,
		},
		"a required key is missing": {
			"agent: {}\n", `gitlab: value is required`,
		},
		"an address that is no URL": {
			strings.Replace(required, "https://gitlab.example.com", "gitlab.example.com", 1), "gitlab.address",
		},
		"an address of a strange scheme": {
			strings.Replace(required, "https:", "ftp:", 1), `kas.yaml:2: gitlab.address: "ftp://gitlab.example.com" is not an http:// or https:// URL`,
		},
		"Redis without a secret for the private API": {
			required + "redis: {server: {address: 'localhost:6379'}}\n", "kas.yaml:4: redis: it needs private_api.listen.authentication_secret_file as well",
		},
		"Redis that is nowhere": {
			required + "redis: {}\n", "kas.yaml:4: redis: one of server and sentinel must say where Redis is",
		},
		"Redis in two places": {
			required + "redis: {server: {address: 'h:1'}, sentinel: {master_name: m, addresses: ['h:2']}}\n", "kas.yaml:4: redis: server and sentinel are both set, say one",
		},
		"Redis without a port": {
			required + "redis:\n  server:\n    address: localhost\n", "kas.yaml:6: redis.server.address: address localhost: missing port in address; write HOST:PORT",
		},
		"a sentinel without a port": {
			required + "redis:\n  sentinel:\n    master_name: m\n    addresses: ['h:1', 'h']\n", "kas.yaml:7: redis.sentinel.addresses: address h: missing port in address; write HOST:PORT",
		},
		"sentinels on a Unix socket": {
			required + "redis: {network: unix, sentinel: {master_name: m, addresses: ['h:2']}}\n", "kas.yaml:4: redis.network: sentinels are reached by tcp",
		},
		"half a certificate for Redis": {
			required + "redis: {server: {address: 'h:1'}, tls: {key_file: x}}\n", "kas.yaml:4: redis.tls: certificate_file and key_file go together",
		},
		"a prefix with spaces": {
			required + "redis: {server: {address: 'h:1'}, key_prefix: 'a b'}\n", `kas.yaml:4: redis.key_prefix: "a b" has more than`,
		},
		"a private API on a Unix socket": {
			required + replicated + "private_api: {listen: {network: unix, address: /s, authentication_secret_file: x}}\n", "kas.yaml:5: private_api.listen.network: replicas of kas reach each other by tcp",
		},
		"an own URL that is none": {
			required + replicated + "private_api: {own_url: 'http://h:1', listen: {authentication_secret_file: x}}\n", `kas.yaml:5: private_api.own_url: "http://h:1" is not grpc://HOST:PORT or grpcs://HOST:PORT`,
		},
		"an own URL without a port": {
			required + replicated + "private_api: {own_url: 'grpc://h', listen: {authentication_secret_file: x}}\n", "kas.yaml:5: private_api.own_url",
		},
		"an age of connections between replicas": {
			required + replicated + "private_api: {listen: {max_connection_age: 1h, authentication_secret_file: x}}\n", "kas.yaml:5: private_api.listen.max_connection_age: only agent.listen and api.listen have one",
		},
		"WebSocket where no agents connect": {
			required + "api: {listen: {websocket: true}}\n", "kas.yaml:4: api.listen.websocket: only agent.listen has it",
		},
		"a certificate without a key": {
			required + "agent: {listen: {certificate_file: x}}\n", "kas.yaml:4: agent.listen: certificate_file and key_file go together, only one is set",
		},
		"a port is missing": {
			required + "api: {listen: {address: localhost}}\n", "kas.yaml:4: api.listen.address: address localhost: missing port in address; write HOST:PORT",
		},
		"a network that does not exist": {
			required + "api: {listen: {network: udp}}\n", `kas.yaml:4: api.listen.network: "udp" is none of tcp, tcp4, tcp6 and unix`,
		},
		"polling without pause": {
			required + "agent: {gitops: {poll_period: 0s}}\n", "kas.yaml:4: agent.gitops.poll_period: 0s is too short, the least is 100ms",
		},
		"a size beyond reason": {
			required + "agent:\n  gitops:\n    blob_cache_size: 18446744073709551615\n", "kas.yaml:6: agent.gitops.blob_cache_size: 18446744073709551615 bytes are too many",
		},
		"a limit that lets nothing through": {
			required + "agent:\n  token_rate_limit: {bucket_size: 0}\n", "kas.yaml:5: agent.token_rate_limit.bucket_size: value must be greater than or equal to 1",
		},
		"a rate that is less than none": {
			required + "gitaly:\n  global_api_rate_limit:\n    refill_rate_per_second: -1\n", "kas.yaml:6: gitaly.global_api_rate_limit.refill_rate_per_second: value must be greater than or equal to 0",
		},
		"connections that end at once": {
			required + "agent: {listen: {max_connection_age: 5ns}}\n", "kas.yaml:4: agent.listen.max_connection_age: 5ns is too short, the least is 1s, or 0s for no limit",
		},
		"a key where it means nothing": {
			required + "observability: {listen: {max_connection_age: 1h}}\n", "kas.yaml:4: observability.listen.max_connection_age: only agent.listen and api.listen have one",
		},
		"a secret where it means nothing": {
			required + "agent: {listen: {authentication_secret_file: x}}\n", "kas.yaml:4: agent.listen.authentication_secret_file: only api.listen and private_api.listen have one",
		},
		"a level that does not exist": {
			required + "observability: {logging: {level: loud}}\n", "kas.yaml:4: observability.logging.level: value must be in list",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := LoadConfiguration(writeConfiguration(t, row.file))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got  %v\nwant …%s…", err, row.want)
			}
		})
	}
	if _, err := LoadConfiguration("/nowhere"); err == nil || !strings.Contains(err.Error(), "read configuration: open /nowhere") {
		t.Errorf("got %v", err)
	}
}
