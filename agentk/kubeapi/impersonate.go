package kubeapi

import (
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
	"k8s.io/client-go/transport"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// impersonate adds the headers that say in whose name a request is. Its errors are statuses.
func (s *Server) impersonate(header http.Header, who *agentrpc.Impersonation) error {
	switch {
	case who == nil:
		return nil
	case who.GetUsername() == "":
		return invalid("there is no name of the user to impersonate")
	case s.asOther:
		return denied("agentk runs with --as, and cannot act in the name of %q", who.GetUsername())
	}
	add := func(name, value string) error {
		// HTTP would cut spaces off, which would make it somebody else's.
		if value == "" || !httpguts.ValidHeaderFieldValue(value) || value != strings.TrimSpace(value) {
			return invalid("%s cannot be %.60q", name, value)
		}
		header.Add(name, value)
		return nil
	}
	if err := add(transport.ImpersonateUserHeader, who.GetUsername()); err != nil {
		return err
	}
	if who.GetUid() != "" {
		if err := add(transport.ImpersonateUIDHeader, who.GetUid()); err != nil {
			return err
		}
	}
	for _, group := range who.GetGroups() {
		if err := add(transport.ImpersonateGroupHeader, group); err != nil {
			return err
		}
	}
	for _, extra := range who.GetExtra() {
		if extra.GetKey() == "" {
			return invalid("an extra of the user to impersonate has no key")
		}
		for _, value := range extra.GetValues() {
			if err := add(transport.ImpersonateUserExtraHeaderPrefix+escapeKey(extra.GetKey()), value); err != nil {
				return err
			}
		}
	}
	return nil
}

// escapeKey encodes a key for the name of a header, as client-go does.
func escapeKey(key string) string {
	var out strings.Builder
	for _, b := range []byte(key) {
		if b != '%' && httpguts.IsTokenRune(rune(b)) {
			out.WriteByte(b)
		} else {
			fmt.Fprintf(&out, "%%%02X", b)
		}
	}
	return out.String()
}
