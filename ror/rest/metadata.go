package rest

import (
	"net/http"

	"github.com/kas-agentk/kas/internal/version"
	"github.com/kas-agentk/kas/ror/jsonhttp"
)

type metadataJSON struct {
	Version    string  `json:"version"`
	Revision   string  `json:"revision"`
	Kas        kasJSON `json:"kas"`
	Enterprise bool    `json:"enterprise"`
}

type kasJSON struct {
	Enabled     bool   `json:"enabled"`
	ExternalURL string `json:"externalUrl"`
	// ExternalK8sProxyURL is null where nobody has said where the proxy is.
	ExternalK8sProxyURL *string `json:"externalK8sProxyUrl"`
	// ExternalK8sProxyCA is ours: PEM of who vouches for the proxy's certificate.
	ExternalK8sProxyCA string `json:"externalK8sProxyCa,omitempty"`
	Version            string `json:"version"`
}

// metadata tells what runs here and where kas is.
func (s *Server) metadata(w http.ResponseWriter, _ call) error {
	m := metadataJSON{
		Version: version.Version, Revision: version.Commit(),
		Kas: kasJSON{Enabled: true, ExternalURL: s.cfg.KasAgentAddress, Version: version.Version},
	}
	if s.cfg.KasProxyURL != "" {
		m.Kas.ExternalK8sProxyURL, m.Kas.ExternalK8sProxyCA = &s.cfg.KasProxyURL, s.cfg.KasProxyCA
	}
	jsonhttp.Write(w, http.StatusOK, m)
	return nil
}
