package kas

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/kascfg"
)

// certificateCheck is how often, at most, a new connection has the certificate's files
// looked at.
const certificateCheck = time.Second

// certificate is a server's, read again when its files change.
type certificate struct {
	certFile, keyFile string
	log               *zap.Logger
	clock             clock.PassiveClock

	mu      sync.Mutex
	current *tls.Certificate
	// stamp of the files when they were read last, well or not.
	stamp   [2]stamp
	checked time.Time
}

// stamp tells whether a file was changed.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{} // reading it will say why
	}
	return stamp{modified: info.ModTime(), size: info.Size()}
}

func newCertificate(certFile, keyFile string, c clock.PassiveClock, log *zap.Logger) (*certificate, error) {
	one := &certificate{certFile: certFile, keyFile: keyFile, clock: c, log: log, checked: c.Now()}
	one.stamp = one.stamps()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the setting
	}
	one.current = &pair
	return one, nil
}

func (c *certificate) stamps() [2]stamp { return [2]stamp{stampOf(c.certFile), stampOf(c.keyFile)} }

// get implements tls.Config.GetCertificate. Where the files are not a pair, as in the
// middle of their replacement, the certificate before stays.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.clock.Now(); now.Sub(c.checked) >= certificateCheck {
		c.checked = now
		c.refresh()
	}
	return c.current, nil
}

// refresh reads the files if they have changed. The lock is held.
func (c *certificate) refresh() {
	stamps := c.stamps()
	if stamps == c.stamp {
		return
	}
	c.stamp = stamps
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Warn("A certificate's files have changed and cannot be used; the one before stays in use",
			zap.String("certificate_file", c.certFile), zap.Error(err))
		return
	}
	c.current = &pair
	c.log.Info("A certificate was read anew", zap.String("certificate_file", c.certFile))
}

// serverTLS returns what a listener's certificate asks for; nil: plaintext.
func serverTLS(key string, l *kascfg.Listen, log *zap.Logger) (*tls.Config, error) {
	if l.GetCertificateFile() == "" {
		return nil, nil
	}
	pair, err := newCertificate(l.GetCertificateFile(), l.GetKeyFile(), clock.RealClock{}, log)
	if err != nil {
		return nil, wrong(key+".certificate_file", "load it and key_file: %w", err)
	}
	return &tls.Config{GetCertificate: pair.get, MinVersion: tls.VersionTLS12}, nil
}

// rootCAs returns the system's authorities and those of a file, which a setting names; nil:
// only the system's.
func rootCAs(key, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, wrong(key, "%w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, wrong(key, "%s holds no PEM certificate", path)
	}
	return pool, nil
}
