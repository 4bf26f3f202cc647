package desired

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
)

const (
	configurationFile = "configuration"
	termFile          = "term"
	setPrefix         = "set-"
	// retryWrites is how long after a failure the store tries again.
	retryWrites = 30 * time.Second
)

// StoreConfig configures a Store. Dir, Wrote and SetAside are required.
type StoreConfig struct {
	// Dir is the store's own directory; it is made, or made private.
	Dir string
	// Limits of what is read.
	Limits Limits
	// Clock; nil: the real one.
	Clock clock.WithTicker
	// Wrote is told how each attempt to write a file ended.
	Wrote func(file string, err error)
	// SetAside is told of each file that cannot be used, and why. It is out of the
	// way from then on.
	SetAside func(file string, err error)
}

// Store keeps the last good configuration and the last good set of each project on
// disk. Its methods may be called by any goroutine.
//
// What it keeps is written by Run, so that nobody waits for a disk: the newest of
// each file, atomically. It knows when it does not know the newest: because another
// process led the agent meanwhile (Lead), or because a newer set was received and
// could not be written. What is not the newest is of use to save traffic, and not to
// heal a cluster, which it would take back in time.
type Store struct {
	cfg   StoreConfig
	files files
	// disk is held while files are written, marked or removed: a set that Run puts in
	// place while Lead marks it would be lost. It is taken before mu.
	disk sync.Mutex

	mu sync.Mutex
	// pending writes by file name, and writing are those at work.
	pending, writing map[string]write
	wake             chan struct{}
	// named are the files of the projects in the newest configuration; nil: it is
	// not known yet.
	named map[string]struct{}
	// stale: the sets on disk are from before somebody else led, and could not be
	// marked as such.
	stale bool
}

// write puts the content of a file.
type write func(io.Writer) error

// OpenStore opens a store whose Run must be called for anything to be kept.
func OpenStore(cfg StoreConfig) (*Store, error) {
	d, err := openFiles(cfg.Dir)
	if err != nil {
		return nil, err
	}
	return newStore(cfg, d), nil
}

func newStore(cfg StoreConfig, d files) *Store {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Store{cfg: cfg, files: d, pending: map[string]write{}, wake: make(chan struct{}, 1)}
}

// Fingerprint tells tokens apart without showing them.
func Fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// KeepConfiguration keeps what kas told the holder of the token, and drops the sets
// of projects that it does not name. It takes over the message.
func (s *Store) KeepConfiguration(token string, response *agentrpc.WatchResponse) {
	named := map[string]struct{}{}
	for _, p := range response.GetConfiguration().GetGitops().GetManifestProjects() {
		named[setFile(response.GetAgentId(), p)] = struct{}{}
	}
	head := about{AgentID: response.GetAgentId(), Token: Fingerprint(token)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named = named
	for name := range s.pending {
		if _, ok := named[name]; !ok {
			delete(s.pending, name)
		}
	}
	s.put(configurationFile, func(w io.Writer) error {
		return encode(w, head, func(put func(proto.Message) error) error { return put(response) })
	})
}

// KeepSet keeps a project's set, whatever that was before.
func (s *Store) KeepSet(agentID int64, project *agentcfg.ManifestProject, set *Set) {
	name := setFile(agentID, project)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.named[name]; !ok && s.named != nil {
		return // it has just left the configuration
	}
	s.put(name, func(w io.Writer) error { return encodeSet(w, agentID, project, set) })
}

// put has Run write a file. s.mu is held.
func (s *Store) put(name string, w write) {
	s.pending[name] = w
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and then what is still to be written.
func (s *Store) Run(ctx context.Context) {
	for ctx.Err() == nil {
		var again <-chan time.Time
		stop := func() bool { return false }
		if !s.flush() {
			timer := s.cfg.Clock.NewTimer(retryWrites)
			again, stop = timer.C(), timer.Stop
		}
		select {
		case <-s.wake:
		case <-again:
		case <-ctx.Done():
		}
		stop()
	}
	s.flush()
}

// flush writes what is pending and removes what is not named any more. What could
// not be written stays pending, unless there is a newer one, and false is returned.
func (s *Store) flush() bool {
	s.disk.Lock()
	defer s.disk.Unlock()
	return s.writePending()
}

// writePending is flush's work. s.disk is held.
func (s *Store) writePending() bool {
	s.mu.Lock()
	pending := s.pending
	s.pending, s.writing = map[string]write{}, pending
	s.mu.Unlock()
	ok := true
	for name, w := range pending {
		err := replace(s.files, name, w)
		s.cfg.Wrote(name, err)
		if err == nil {
			continue
		}
		ok = false
		s.mu.Lock()
		if _, newer := s.pending[name]; !newer {
			s.pending[name] = w
		}
		s.mu.Unlock()
	}
	if _, configured := pending[configurationFile]; configured {
		s.sweep()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = nil
	return ok
}

// sweep removes the sets that the configuration does not name. What cannot be removed
// is removed after the next configuration.
func (s *Store) sweep() {
	names, err := s.files.List()
	if err != nil {
		return
	}
	s.mu.Lock()
	named := s.named
	s.mu.Unlock()
	for _, name := range names {
		bare := name
		for _, ending := range []string{beingWritten, outdated, broken} {
			bare = strings.TrimSuffix(bare, ending)
		}
		if _, ok := named[bare]; !ok && strings.HasPrefix(bare, setPrefix) {
			_ = removeAny(s.files, name)
		}
	}
}

// Lead says that this process leads the agent from now on, in a term of that number:
// it grows by one whenever the lead passes to somebody else, or is given up and taken
// again. If others have led since the term that is on disk, the sets there are not
// used to heal. The error says that the term could not be kept, which does no harm
// now: a later process will not trust the sets.
func (s *Store) Lead(agentID, term int64) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	var err error
	// Giving up and taking again is one step, and so is taking over from oneself
	// under another name; two are somebody else.
	if known, readErr := s.term(agentID); readErr != nil || term != known && term != known+1 {
		s.settle()
		err = s.outdateSets()
	}
	s.mu.Lock()
	s.stale = err != nil
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return replace(s.files, termFile, func(w io.Writer) error {
		return encode(w, about{AgentID: agentID, Term: &term}, func(func(proto.Message) error) error { return nil })
	})
}

var errNoTerm = errors.New("no term of this agent is known")

func (s *Store) term(agentID int64) (int64, error) {
	var head about
	_, err := s.read(termFile, func(d *decoder) error {
		head = d.about
		return nil
	})
	if err != nil {
		return 0, err
	}
	if head.AgentID != agentID || head.Term == nil {
		return 0, errNoTerm
	}
	return *head.Term, nil
}

// settle leaves no set to be written later: it would be taken for one of the term
// that begins. s.disk is held.
func (s *Store) settle() {
	s.writePending()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.pending, func(name string, _ write) bool { return strings.HasPrefix(name, setPrefix) })
}

func (s *Store) outdateSets() error {
	names, err := s.files.List()
	if err != nil {
		return fmt.Errorf("list the kept sets: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, setPrefix) && !strings.Contains(name, ".") {
			if err := outdate(s.files, name); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	// ErrNotKept says that the store does not have it.
	ErrNotKept = errors.New("nothing is kept")
	// ErrOtherToken says that what is kept was told to the holder of another token.
	ErrOtherToken = errors.New("what is kept was meant for the holder of another token")
)

// Configuration returns what kas told the holder of the token. An error is
// ErrNotKept, ErrOtherToken, or says why the file was set aside.
func (s *Store) Configuration(token string) (*agentrpc.WatchResponse, error) {
	response := &agentrpc.WatchResponse{}
	_, err := s.read(configurationFile, func(d *decoder) error {
		if d.about.Token != Fingerprint(token) {
			return ErrOtherToken
		}
		if ok, err := d.next(response); err != nil || !ok {
			return errors.Join(errForeign, err)
		}
		if response.GetAgentId() != d.about.AgentID {
			return errForeign
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// Kept is a set that was kept, and what a receiver knows that has received it.
type Kept struct {
	Receiver *Receiver
	Set      *Set
	// Newest: no newer one has been received, nor has anybody else led since.
	Newest bool
}

// Set returns a project's set, if the project asks for the same files as when it was
// kept. An error is ErrNotKept or says why the file was set aside.
func (s *Store) Set(agentID int64, project *agentcfg.ManifestProject) (Kept, error) {
	kept := Kept{Receiver: NewReceiver(s.cfg.Limits)}
	name := setFile(agentID, project)
	current, err := s.read(name, func(d *decoder) error {
		if d.about.AgentID != agentID {
			return ErrNotKept
		}
		var err error
		kept.Set, err = decodeSet(d, project, kept.Receiver)
		return err
	})
	if err != nil {
		return Kept{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, waits := s.pending[name]
	_, atWork := s.writing[name]
	kept.Newest = current && !s.stale && !waits && !atWork
	return kept, nil
}

// read reads a file, or an outdated one, for which false is returned. One that cannot
// be used is set aside.
func (s *Store) read(name string, content func(*decoder) error) (current bool, err error) {
	for _, candidate := range []string{name, name + outdated} {
		err = s.readOne(candidate, content)
		switch {
		case err == nil:
			return candidate == name, nil
		case errors.Is(err, ErrNotKept), errors.Is(err, ErrOtherToken):
			return false, err
		case errors.Is(err, fs.ErrNotExist):
			err = ErrNotKept
		case errors.Is(err, errForeign), errors.Is(err, errNewer), errors.Is(err, ErrTooLarge), errors.Is(err, ErrProtocol):
			s.cfg.SetAside(candidate, errors.Join(err, s.files.Rename(candidate, name+broken)))
		}
	}
	return false, err
}

func (s *Store) readOne(name string, content func(*decoder) error) (err error) {
	f, err := s.files.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d, err := newDecoder(f, info.Size())
	if err != nil {
		return err
	}
	if err := content(d); err != nil {
		return err
	}
	return d.end()
}

// setFile names the file of a project's set.
func setFile(agentID int64, project *agentcfg.ManifestProject) string {
	sum := sha256.Sum256([]byte(project.GetId()))
	return fmt.Sprintf("%s%d-%x", setPrefix, agentID, sum[:8])
}
