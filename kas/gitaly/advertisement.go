package gitaly

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/internal/gitrepo"
)

const (
	headsPrefix = "refs/heads/"
	tagsPrefix  = "refs/tags/"
	peeled      = "^{}"
	symrefHEAD  = "symref=HEAD:"
	// noRefs stands in place of a ref's name where a repository has none.
	noRefs = "capabilities^{}"
	// maxPacket is the longest pkt-line, its length included.
	maxPacket = 65520
)

// findRef reads a ref advertisement (git-upload-pack's answer to info/refs) until it
// knows which commit ref names. It returns ref, or for the default branch the branch
// that it is, and the commit's ID; else ErrEmpty, a RefNotFoundError, or what went
// wrong with reading.
func findRef(r io.Reader, ref gitrepo.Ref) (gitrepo.Ref, string, error) {
	want := "HEAD"
	switch {
	case ref.Branch != "":
		want = headsPrefix + ref.Branch
	case ref.Tag != "":
		want = tagsPrefix + ref.Tag
	}
	packets := &packetReader{r: bufio.NewReaderSize(r, maxPacket)}
	var found string
	for first := true; ; first = false {
		oid, name, capabilities, err := packets.ref(first)
		switch {
		case errors.Is(err, errEnd) && first:
			return ref, "", gitrepo.ErrEmpty
		case errors.Is(err, errEnd) && found != "":
			return ref, found, nil
		case errors.Is(err, errEnd):
			return ref, "", &gitrepo.RefNotFoundError{Ref: ref}
		case err != nil:
			return ref, "", err
		case name == noRefs:
			return ref, "", gitrepo.ErrEmpty
		case found != "" && name == want+peeled: // an annotated tag: the commit it is about
			return ref, oid, nil
		case found != "":
			return ref, found, nil
		case name != want:
			continue
		}
		if ref == (gitrepo.Ref{}) {
			return defaultBranch(capabilities), oid, nil
		}
		if found = oid; ref.Tag == "" {
			return ref, found, nil
		}
	}
}

// defaultBranch returns the branch that HEAD stands for, or the zero Ref.
func defaultBranch(capabilities string) gitrepo.Ref {
	for capability := range strings.FieldsSeq(capabilities) {
		if target, ok := strings.CutPrefix(capability, symrefHEAD); ok {
			if branch, ok := strings.CutPrefix(target, headsPrefix); ok {
				return gitrepo.Ref{Branch: branch}
			}
		}
	}
	return gitrepo.Ref{}
}

// packetReader reads pkt-lines.
type packetReader struct {
	r *bufio.Reader
}

// errEnd says that the list of refs has come to its end.
var errEnd = errors.New("end of refs")

// ref returns the next ref, or errEnd. The first is preceded by the service's name
// and followed by the capabilities.
func (p *packetReader) ref(first bool) (oid, name, capabilities string, err error) {
	line, err := p.line()
	if err != nil {
		return "", "", "", err
	}
	if first && strings.HasPrefix(line, "# service=") {
		if line, err = p.line(); err != nil { // the flush after it
			return "", "", "", err
		}
		if line == "" {
			if line, err = p.line(); err != nil {
				return "", "", "", err
			}
		}
	}
	if line == "" {
		return "", "", "", errEnd
	}
	line, capabilities, _ = strings.Cut(line, "\x00")
	oid, name, ok := strings.Cut(line, " ")
	if !ok || !isOID(oid) {
		return "", "", "", fmt.Errorf("not a ref advertisement: %.60q", line)
	}
	return oid, name, capabilities, nil
}

// line returns the next pkt-line without its line end, or "" for a flush.
func (p *packetReader) line() (string, error) {
	var header [4]byte
	if _, err := io.ReadFull(p.r, header[:]); err != nil {
		return "", fmt.Errorf("read ref advertisement: %w", err)
	}
	size, err := strconv.ParseUint(string(header[:]), 16, 16)
	switch {
	case err != nil || size > maxPacket || size > 0 && size <= 4:
		return "", fmt.Errorf("not a ref advertisement: a pkt-line begins with %q", header)
	case size == 0:
		return "", nil
	}
	data := make([]byte, size-4)
	if _, err := io.ReadFull(p.r, data); err != nil {
		return "", fmt.Errorf("read ref advertisement: %w", err)
	}
	return strings.TrimSuffix(string(data), "\n"), nil
}

// isOID tells whether s is the ID of a Git object.
func isOID(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
