package kas

import (
	"context"
	"crypto/tls"
	"net"

	"go.uber.org/zap"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/wstransport"
)

// Addresses are where kas listens: with the ports that port 0 became.
type Addresses struct {
	Agent, API, Observability string
	// KubernetesAPI is empty where there is no Kubernetes API proxy.
	KubernetesAPI string
	// Private is empty where this kas is alone.
	Private string
}

// listeners are open, and nobody serves them yet.
type listeners struct {
	agent, api, observability net.Listener
	// kubernetesAPI is nil where there is no Kubernetes API proxy.
	kubernetesAPI net.Listener
	// private is nil where this kas is alone.
	private net.Listener
}

func (l *listeners) addresses() Addresses {
	where := Addresses{
		Agent:         l.agent.Addr().String(),
		API:           l.api.Addr().String(),
		Observability: l.observability.Addr().String(),
	}
	if l.kubernetesAPI != nil {
		where.KubernetesAPI = l.kubernetesAPI.Addr().String()
	}
	if l.private != nil {
		where.Private = l.private.Addr().String()
	}
	return where
}

// close closes those that are open; servers close theirs by themselves.
func (l *listeners) close() {
	for _, one := range []net.Listener{l.agent, l.api, l.observability, l.kubernetesAPI, l.private} {
		if one != nil {
			_ = one.Close() // nothing is lost with it
		}
	}
}

func listenAll(ctx context.Context, cfg *kascfg.ConfigurationFile) (*listeners, error) {
	l := &listeners{}
	var private *kascfg.Listen
	if cfg.GetRedis() != nil {
		private = cfg.GetPrivateApi().GetListen()
	}
	for _, one := range []struct {
		key  string
		cfg  *kascfg.Listen
		into *net.Listener
	}{
		{"agent.listen", cfg.GetAgent().GetListen(), &l.agent},
		{"api.listen", cfg.GetApi().GetListen(), &l.api},
		{"observability.listen", cfg.GetObservability().GetListen(), &l.observability},
		{kubernetesAPIListen, cfg.GetAgent().GetKubernetesApi().GetListen(), &l.kubernetesAPI},
		{privateListen, private, &l.private},
	} {
		if one.cfg == nil {
			continue
		}
		opened, err := (&net.ListenConfig{}).Listen(ctx, one.cfg.GetNetwork(), one.cfg.GetAddress())
		if err != nil {
			l.close()
			return nil, wrong(one.key+".address", "%w", err)
		}
		*one.into = opened
	}
	return l, nil
}

// webSocket returns what takes agents' WebSockets from a listener. cfg may be nil.
func webSocket(cfg *tls.Config, log *zap.Logger) func(net.Listener) *wstransport.Listener {
	// What strangers do wrong is theirs, and goes where libraries' words go.
	strangers, err := zap.NewStdLogAt(log.Named("websocket"), zap.DebugLevel)
	if err != nil {
		strangers = nil // there is a level Debug
	}
	return func(l net.Listener) *wstransport.Listener {
		return wstransport.NewListener(l, wstransport.ListenerConfig{TLS: cfg, ErrorLog: strangers})
	}
}
