package kas

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/protoconf"
)

// DefaultConfiguration is what holds where a configuration file does not say otherwise.
// gitlab.address and gitlab.authentication_secret_file have no default.
func DefaultConfiguration() *kascfg.ConfigurationFile {
	return &kascfg.ConfigurationFile{
		Gitlab: &kascfg.Gitlab{
			ApiRateLimit: bucket(50, 250),
		},
		Agent: &kascfg.Agent{
			Listen: &kascfg.Listen{
				Network:             "tcp",
				Address:             "127.0.0.1:8150",
				MaxConnectionAge:    durationpb.New(2 * time.Hour),
				ConnectionRateLimit: bucket(500, 1000),
			},
			Configuration: &kascfg.AgentConfiguration{
				PollPeriod:               durationpb.New(20 * time.Second),
				MaxConfigurationFileSize: 128 << 10,
			},
			Gitops: &kascfg.Gitops{
				PollPeriod:               durationpb.New(20 * time.Second),
				ProjectInfoCacheTtl:      durationpb.New(5 * time.Minute),
				ProjectInfoCacheErrorTtl: durationpb.New(time.Minute),
				MaxManifestFileSize:      5 << 20,
				MaxTotalManifestFileSize: 200 << 20,
				MaxNumberOfFiles:         20_000,
				BlobCacheSize:            256 << 20,
			},
			InfoCacheTtl:      durationpb.New(5 * time.Minute),
			InfoCacheErrorTtl: durationpb.New(time.Minute),
			TokenRateLimit:    bucket(50, 500),
		},
		Gitaly: &kascfg.Gitaly{
			GlobalApiRateLimit:    bucket(1000, 2000),
			PerServerApiRateLimit: bucket(500, 1000),
		},
		Api: &kascfg.Api{Listen: &kascfg.Listen{
			Network:          "tcp",
			Address:          "127.0.0.1:8153",
			MaxConnectionAge: durationpb.New(2 * time.Hour),
		}},
		Observability: &kascfg.Observability{
			Listen:  &kascfg.Listen{Network: "tcp", Address: "127.0.0.1:8151"},
			Logging: &kascfg.Logging{Level: "info"},
		},
	}
}

// LoadConfiguration reads a configuration file, fills in the defaults and checks the
// result. A mistake in the file is a *protoconf.Error that names the file, the key and
// where it can the line.
func LoadConfiguration(path string) (*kascfg.ConfigurationFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg := &kascfg.ConfigurationFile{}
	if err := protoconf.Unmarshal(path, data, cfg); err != nil {
		return nil, err
	}
	complete(cfg.ProtoReflect(), DefaultConfiguration().ProtoReflect())
	completeKubernetesAPI(cfg)
	completeReplicas(cfg)
	if cfg.GetApi().GetListen().GetAuthenticationSecretFile() == "" {
		cfg.Api.Listen.AuthenticationSecretFile = cfg.GetGitlab().GetAuthenticationSecretFile()
	}
	if err := validate(cfg); err != nil {
		return nil, locate(path, err)
	}
	return cfg, nil
}

// settingError is something that a setting is to blame for.
type settingError struct {
	// key as it is written, for example "agent.listen.address".
	key string
	err error
}

// Error implements error.
func (e *settingError) Error() string { return e.key + ": " + e.err.Error() }

// Unwrap returns what is wrong.
func (e *settingError) Unwrap() error { return e.err }

func wrong(key, format string, args ...any) error {
	return &settingError{key: key, err: fmt.Errorf(format, args...)}
}

// locate turns an error that a setting is to blame for into a *protoconf.Error that names
// the configuration file and the setting's line there; others stay as they are.
func locate(path string, err error) error {
	var setting *settingError
	if !errors.As(err, &setting) {
		return err
	}
	located := &protoconf.Error{Path: path, Message: err.Error()}
	if data, err := os.ReadFile(path); err == nil {
		located.Line = protoconf.LineOf(data, strings.Split(setting.key, "."))
	}
	return located
}

// bucket is a rate limit.
func bucket(perSecond float64, size uint32) *kascfg.TokenBucket {
	return &kascfg.TokenBucket{RefillRatePerSecond: &perSecond, BucketSize: &size}
}

// complete sets the fields of m that are not set to those of defaults. A duration that is
// there is kept, even if it is zero.
func complete(m, defaults protoreflect.Message) {
	defaults.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case !m.Has(field):
			m.Set(field, value) // defaults are the caller's own
		case field.Message() != nil && field.Message().FullName() != durationName:
			complete(m.Mutable(field).Message(), value.Message())
		}
		return true
	})
}

var durationName = proto.MessageName(&durationpb.Duration{})

// validate checks what the schema cannot.
func validate(cfg *kascfg.ConfigurationFile) error {
	address, err := url.Parse(cfg.GetGitlab().GetAddress())
	if err != nil || (address.Scheme != "http" && address.Scheme != "https") || address.Host == "" {
		return wrong("gitlab.address", "%q is not an http:// or https:// URL", cfg.GetGitlab().GetAddress())
	}
	for _, listen := range []struct {
		key    string
		listen *kascfg.Listen
	}{
		{"agent.listen", cfg.GetAgent().GetListen()},
		{"api.listen", cfg.GetApi().GetListen()},
		{"observability.listen", cfg.GetObservability().GetListen()},
	} {
		if err := validateListen(listen.key, listen.listen); err != nil {
			return err
		}
	}
	for key, period := range map[string]*durationpb.Duration{
		"agent.configuration.poll_period": cfg.GetAgent().GetConfiguration().GetPollPeriod(),
		"agent.gitops.poll_period":        cfg.GetAgent().GetGitops().GetPollPeriod(),
	} {
		if period.AsDuration() < minPollPeriod {
			return wrong(key, "%s is too short, the least is %s", period.AsDuration(), minPollPeriod)
		}
	}
	if err := validateKubernetesAPI(cfg.GetAgent().GetKubernetesApi()); err != nil {
		return err
	}
	if err := validateReplicas(cfg); err != nil {
		return err
	}
	if err := validateTracing(cfg.GetObservability().GetTracing()); err != nil {
		return err
	}
	return validateSizes(cfg.GetAgent().GetGitops())
}

// validateSizes makes sure that sizes can be counted with.
func validateSizes(g *kascfg.Gitops) error {
	const most = 1 << 50
	for key, size := range map[string]uint64{
		"agent.gitops.blob_cache_size":              g.GetBlobCacheSize(),
		"agent.gitops.max_total_manifest_file_size": g.GetMaxTotalManifestFileSize(),
	} {
		if size > most {
			return wrong(key, "%d bytes are too many, the most is %d", size, uint64(most))
		}
	}
	return nil
}

const (
	// minPollPeriod keeps a typing mistake from flooding Gitaly.
	minPollPeriod = 100 * time.Millisecond
	// minConnectionAge likewise from making every agent reconnect all the time.
	minConnectionAge = time.Second
)

func validateListen(key string, l *kascfg.Listen) error {
	switch l.GetNetwork() {
	case "tcp", "tcp4", "tcp6":
		if _, _, err := net.SplitHostPort(l.GetAddress()); err != nil {
			return wrong(key+".address", "%w; write HOST:PORT", err)
		}
	case "unix":
	default:
		return wrong(key+".network", "%q is none of tcp, tcp4, tcp6 and unix", l.GetNetwork())
	}
	if (l.GetCertificateFile() == "") != (l.GetKeyFile() == "") {
		return wrong(key, "certificate_file and key_file go together, only one is set")
	}
	if l.GetAuthenticationSecretFile() != "" && key != "api.listen" && key != privateListen {
		return wrong(key+".authentication_secret_file", "only api.listen and private_api.listen have one")
	}
	if l.GetConnectionRateLimit() != nil && key != "agent.listen" {
		return wrong(key+".connection_rate_limit", "only agent.listen has one")
	}
	if l.GetWebsocket() && key != "agent.listen" {
		return wrong(key+".websocket", "only agent.listen has it")
	}
	if age := l.GetMaxConnectionAge().AsDuration(); age > 0 && age < minConnectionAge {
		return wrong(key+".max_connection_age", "%s is too short, the least is %s, or 0s for no limit", age, minConnectionAge)
	}
	if l.GetMaxConnectionAge() != nil && (key == "observability.listen" || key == kubernetesAPIListen || key == privateListen) {
		return wrong(key+".max_connection_age", "only agent.listen and api.listen have one")
	}
	return nil
}
