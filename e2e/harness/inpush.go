package harness

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// gitProbe is the length of the empty request that git sends before a large one.
const gitProbe = 4

// InPush serves ror at another address, which it returns. In the first push that
// comes that way it calls do, when ror has let the pusher in and so many bytes of
// what git sends have gone on to it.
func (f *Fixture) InPush(bytes int64, do func()) (server string) {
	f.T.Helper()
	ror, err := url.Parse(f.Stack.RorURL)
	if err != nil {
		f.T.Fatal(err)
	}
	var once sync.Once
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(ror)
			if !strings.HasSuffix(r.In.URL.Path, "/git-receive-pack") || r.In.ContentLength == gitProbe {
				return
			}
			// The transport then reads the body only after ror, having authorized, does.
			r.Out.Header.Set("Expect", "100-continue")
			r.Out.Body = &tripwire{ReadCloser: r.Out.Body, left: bytes, do: func() { once.Do(do) }}
		},
		ErrorLog:  log.New(io.Discard, "", 0), // that the push breaks off is the point
		Transport: &http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Git is answered while it still sends; without this, what it sends gets lost then.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			f.T.Error(err)
		}
		proxy.ServeHTTP(w, r)
	}))
	f.T.Cleanup(s.Close)
	return s.URL
}

// tripwire calls do before it gives away more than so many bytes.
type tripwire struct {
	io.ReadCloser
	left int64
	do   func()
}

// Read implements io.Reader.
func (t *tripwire) Read(p []byte) (int, error) {
	if t.left <= 0 {
		t.do()
	} else if int64(len(p)) > t.left {
		p = p[:t.left]
	}
	n, err := t.ReadCloser.Read(p)
	t.left -= int64(n)
	return n, err
}
