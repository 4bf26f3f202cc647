package kas

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/kas/proxy"
)

// kubernetesAPIListen is where the Kubernetes API proxy listens.
const kubernetesAPIListen = "agent.kubernetes_api.listen"

// completeKubernetesAPI fills in what holds of the Kubernetes API proxy, if there is one.
func completeKubernetesAPI(cfg *kascfg.ConfigurationFile) {
	api := cfg.GetAgent().GetKubernetesApi()
	if api == nil {
		return
	}
	complete(api.ProtoReflect(), (&kascfg.KubernetesApi{
		Listen:                    &kascfg.Listen{Network: "tcp", Address: "127.0.0.1:8154"},
		UrlPathPrefix:             "/k8s-proxy/",
		AllowedAgentCacheTtl:      durationpb.New(time.Minute),
		AllowedAgentCacheErrorTtl: durationpb.New(10 * time.Second),
		ReconnectWait:             durationpb.New(5 * time.Second),
		UserRateLimit:             bucket(100, 1000),
	}).ProtoReflect())
	if !strings.HasSuffix(api.GetUrlPathPrefix(), "/") {
		api.UrlPathPrefix += "/"
	}
	if address, err := url.Parse(cfg.GetGitlab().GetAddress()); err == nil && len(api.GetAllowedOrigins()) == 0 {
		api.AllowedOrigins = []string{originOf(address)}
	}
}

// originOf a URL is what browsers say of its pages.
func originOf(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if port := map[string]string{"http": ":80", "https": ":443"}[scheme]; port != "" {
		host = strings.TrimSuffix(host, port)
	}
	return scheme + "://" + host
}

// validateKubernetesAPI checks what the schema cannot. api may be nil.
func validateKubernetesAPI(api *kascfg.KubernetesApi) error {
	if api == nil {
		return nil
	}
	if err := validateListen(kubernetesAPIListen, api.GetListen()); err != nil {
		return err
	}
	prefix := api.GetUrlPathPrefix()
	if u, err := url.Parse(prefix); err != nil || !strings.HasPrefix(prefix, "/") || u.EscapedPath() != prefix || u.Host != "" || strings.Contains(prefix, "//") {
		return wrong("agent.kubernetes_api.url_path_prefix", "%q is not the path of a URL; write for example /k8s-proxy/", prefix)
	}
	for _, origin := range api.GetAllowedOrigins() {
		if u, err := url.Parse(origin); err != nil || u.Host == "" || originOf(u) != origin {
			return wrong("agent.kubernetes_api.allowed_origins", "%q is not an origin as browsers write it, for example https://gitlab.example.com", origin)
		}
	}
	return nil
}

// newKubernetesAPI makes the Kubernetes API proxy; nil: none is configured.
func newKubernetesAPI(cfg *kascfg.KubernetesApi, m *many, with proxy.Collaborators, traced *tracing.Tracing) (*proxy.Server, error) {
	if cfg == nil {
		return nil, nil
	}
	tlsConfig, err := serverTLS(kubernetesAPIListen, cfg.GetListen(), with.Log)
	if err != nil {
		return nil, err
	}
	with.Limiter, with.Log = m.limiter("kubernetes-api-user", cfg.GetUserRateLimit()), with.Log.Named("kubernetes_api")
	server, err := proxy.NewServer(proxy.Config{
		URLPathPrefix:  cfg.GetUrlPathPrefix(),
		AllowedOrigins: cfg.GetAllowedOrigins(),
		TTL:            cfg.GetAllowedAgentCacheTtl().AsDuration(),
		ErrorTTL:       cfg.GetAllowedAgentCacheErrorTtl().AsDuration(),
		ReconnectWait:  cfg.GetReconnectWait().AsDuration(),
		TLS:            tlsConfig,
		Tracing:        traced,
	}, with)
	if err != nil {
		return nil, fmt.Errorf("set up the Kubernetes API proxy: %w", err)
	}
	return server, nil
}
