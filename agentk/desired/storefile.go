package desired

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/internal/grpctool"
)

// A file of the store: a line that names the format and its version, a line of JSON
// that says whose the content is, protobuf messages each after its length, and the
// SHA-256 of all that.

const (
	formatName    = "agentk-state"
	formatVersion = 1
	// longestLine of the two lines at the beginning.
	longestLine = 64 << 10
)

var (
	// errForeign marks a file that this program did not write, or not to its end.
	errForeign = errors.New("damaged, or not a file of agentk's")
	// errNewer marks a file of a later agentk.
	errNewer = errors.New("written by a newer agentk")
)

// about says whose the content of a file is.
type about struct {
	// AgentID is the number of the agent in RoR.
	AgentID int64 `json:"agent_id"`
	// Token is the fingerprint of the token with which kas knew the agent. Only the
	// configuration has it.
	Token string `json:"token,omitempty"`
	// Term is the newest in which this process led the agent. Only the file of that
	// name has it.
	Term *int64 `json:"term,omitempty"`
}

// encode writes a file.
func encode(w io.Writer, a about, messages func(put func(proto.Message) error) error) error {
	sum := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	head, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	// A bufio.Writer remembers its first error.
	_, _ = fmt.Fprintf(buffered, "%s %d\n%s\n", formatName, formatVersion, head)
	err = messages(func(m proto.Message) error {
		if _, err := protodelim.MarshalTo(buffered, m); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// decoder reads a file, whose content must not be believed before end returns nil.
type decoder struct {
	about about
	r     *bufio.Reader
	file  io.Reader
	sum   hash.Hash
}

// newDecoder reads the beginning of a file of that size.
func newDecoder(file io.Reader, size int64) (*decoder, error) {
	d := &decoder{file: file, sum: sha256.New()}
	d.r = bufio.NewReaderSize(io.TeeReader(io.LimitReader(file, size-sha256.Size), d.sum), longestLine)
	format, err := d.line()
	if err != nil {
		return nil, err
	}
	version, ours := strings.CutPrefix(string(format), formatName+" ")
	number, err := strconv.Atoi(version)
	switch {
	case !ours || err != nil || number < 1:
		return nil, errForeign
	case number > formatVersion:
		return nil, fmt.Errorf("format %d: %w", number, errNewer)
	}
	head, err := d.line()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(head, &d.about); err != nil {
		return nil, fmt.Errorf("%w: %w", errForeign, err)
	}
	return d, nil
}

func (d *decoder) line() ([]byte, error) {
	line, err := d.r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errForeign, err)
	}
	return bytes.Clone(line[:len(line)-1]), nil
}

// next reads a message; false: there is no other.
func (d *decoder) next(m proto.Message) (bool, error) {
	err := protodelim.UnmarshalOptions{MaxSize: grpctool.MaxMessageSize}.UnmarshalFrom(d.r, m)
	switch {
	case errors.Is(err, io.EOF):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%w: %w", errForeign, err)
	}
	return true, nil
}

// end checks that the file is whole.
func (d *decoder) end() error {
	if n, err := io.Copy(io.Discard, d.r); err != nil || n > 0 {
		return fmt.Errorf("%w: %d bytes too many (%w)", errForeign, n, err)
	}
	sum := make([]byte, sha256.Size+1)
	n, err := io.ReadFull(d.file, sum)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(sum[:n], d.sum.Sum(nil)) {
		return fmt.Errorf("%w: its checksum is wrong", errForeign)
	}
	return nil
}
