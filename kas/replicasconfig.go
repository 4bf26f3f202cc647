package kas

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/kas/replicas"
)

const (
	// privateListen is where the other replicas of kas reach this one.
	privateListen = "private_api.listen"
	// ownURLVariable has the URL of this kas's private API, where the configuration does not
	// say it: replicas may then share a configuration.
	ownURLVariable = "OWN_PRIVATE_API_URL"
)

// completeReplicas fills in what holds of replicas, if this kas is to have any.
func completeReplicas(cfg *kascfg.ConfigurationFile) {
	if cfg.GetRedis() == nil {
		return
	}
	complete(cfg.ProtoReflect(), (&kascfg.ConfigurationFile{
		Redis: &kascfg.Redis{
			Network:      "tcp",
			KeyPrefix:    "gitlab-kas",
			DialTimeout:  durationpb.New(5 * time.Second),
			WriteTimeout: durationpb.New(3 * time.Second),
		},
		PrivateApi: &kascfg.PrivateApi{Listen: &kascfg.Listen{Network: "tcp", Address: "127.0.0.1:8155"}},
	}).ProtoReflect())
}

// validateReplicas checks what the schema cannot.
func validateReplicas(cfg *kascfg.ConfigurationFile) error {
	redis, api := cfg.GetRedis(), cfg.GetPrivateApi()
	if redis == nil {
		return nil
	}
	if err := validateRedis(redis); err != nil {
		return err
	}
	if err := validateListen(privateListen, api.GetListen()); err != nil {
		return err
	}
	switch {
	case api.GetListen().GetNetwork() == "unix":
		return wrong(privateListen+".network", "replicas of kas reach each other by tcp")
	case api.GetListen().GetAuthenticationSecretFile() == "":
		return wrong("redis", "it needs %s.authentication_secret_file as well, the same for all replicas: make one with \"openssl rand -base64 32\"", privateListen)
	case api.GetOwnUrl() != "":
		return validateOwnURL(api.GetOwnUrl())
	default:
		return nil
	}
}

func validateRedis(redis *kascfg.Redis) error {
	server, sentinel := redis.GetServer(), redis.GetSentinel()
	switch {
	case server == nil && sentinel == nil:
		return wrong("redis", "one of server and sentinel must say where Redis is")
	case server != nil && sentinel != nil:
		return wrong("redis", "server and sentinel are both set, say one")
	case sentinel != nil && redis.GetNetwork() == "unix":
		return wrong("redis.network", "sentinels are reached by tcp")
	case (redis.GetTls().GetCertificateFile() == "") != (redis.GetTls().GetKeyFile() == ""):
		return wrong("redis.tls", "certificate_file and key_file go together, only one is set")
	case strings.ContainsFunc(redis.GetKeyPrefix(), func(r rune) bool { return r <= ' ' || r > '~' }):
		return wrong("redis.key_prefix", "%q has more than letters, digits and signs of ASCII", redis.GetKeyPrefix())
	case redis.GetNetwork() == "unix":
		return nil
	}
	key, addresses := "redis.server.address", []string{server.GetAddress()}
	if sentinel != nil {
		key, addresses = "redis.sentinel.addresses", sentinel.GetAddresses()
	}
	for _, address := range addresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return wrong(key, "%w; write HOST:PORT", err)
		}
	}
	return nil
}

func validateOwnURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "grpc" && u.Scheme != "grpcs") || u.Port() == "" || u.Hostname() == "" || strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return wrong("private_api.own_url", "%q is not grpc://HOST:PORT or grpcs://HOST:PORT", text)
	}
	return nil
}

// ownURL is how other replicas reach this one's private API, which listens.
func ownURL(api *kascfg.PrivateApi, listening net.Addr) (string, error) {
	if api.GetOwnUrl() != "" {
		return strings.TrimSuffix(api.GetOwnUrl(), "/"), nil
	}
	if own := os.Getenv(ownURLVariable); own != "" {
		if err := validateOwnURL(own); err != nil {
			return "", fmt.Errorf("environment variable %s, in the place of %w", ownURLVariable, err)
		}
		return strings.TrimSuffix(own, "/"), nil
	}
	address, ok := listening.(*net.TCPAddr)
	if !ok || address.IP.IsUnspecified() {
		return "", wrong("private_api.own_url", "%s is %q, every address of this machine: say how other replicas of kas reach this one here, or by the environment variable %s, for example grpc://10.1.2.3:8155",
			privateListen+".address", api.GetListen().GetAddress(), ownURLVariable)
	}
	scheme := "grpc"
	if api.GetListen().GetCertificateFile() != "" {
		scheme = "grpcs"
	}
	return scheme + "://" + address.String(), nil
}

// redisOf reads what the configuration says of Redis.
func redisOf(cfg *kascfg.Redis) (replicas.Redis, error) {
	redis := replicas.Redis{
		Addresses: []string{cfg.GetServer().GetAddress()}, Network: cfg.GetNetwork(),
		Username: cfg.GetUsername(), Database: int(cfg.GetDatabaseIndex()), Prefix: cfg.GetKeyPrefix(),
		DialTimeout: cfg.GetDialTimeout().AsDuration(), WriteTimeout: cfg.GetWriteTimeout().AsDuration(),
	}
	if sentinel := cfg.GetSentinel(); sentinel != nil {
		redis.Addresses, redis.MasterName = sentinel.GetAddresses(), sentinel.GetMasterName()
	}
	var err error
	if redis.Password, err = password("redis.password_file", cfg.GetPasswordFile()); err != nil {
		return redis, err
	}
	if redis.SentinelPassword, err = password("redis.sentinel.sentinel_password_file", cfg.GetSentinel().GetSentinelPasswordFile()); err != nil {
		return redis, err
	}
	redis.TLS, err = redisTLS(cfg.GetTls())
	return redis, err
}

// password reads a file; no file: there is none.
func password(key, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", wrong(key, "%w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

func redisTLS(cfg *kascfg.RedisTls) (*tls.Config, error) {
	if !cfg.GetEnabled() {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.GetCertificateFile() != "" {
		pair, err := tls.LoadX509KeyPair(cfg.GetCertificateFile(), cfg.GetKeyFile())
		if err != nil {
			return nil, wrong("redis.tls.certificate_file", "load it and key_file: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	if path := cfg.GetCaCertificateFile(); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, wrong("redis.tls.ca_certificate_file", "%w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, wrong("redis.tls.ca_certificate_file", "%s holds no PEM certificate", path)
		}
	}
	return out, nil
}
