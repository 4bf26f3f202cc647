package agents

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/protoconf"
)

// configuration is one that may be sent to an agent. It is not changed any more.
type configuration struct {
	commit string
	// asWritten is what RoR is told; full, with defaults filled in, is what the agent gets.
	asWritten, full *agentcfg.ConfigurationFile
}

func (c *configuration) projects() []string {
	ids := []string{}
	for _, p := range c.full.GetGitops().GetManifestProjects() {
		ids = append(ids, p.GetId())
	}
	return ids
}

// feed follows the configuration file of one agent, for all of its streams.
type feed struct {
	cfg    ServerConfig
	agent  gitlabapi.AgentInfo
	repo   gitrepo.Repository
	path   string
	files  Files
	rails  Reporter
	status Status
	log    *zap.Logger

	revisions *newest[gitrepo.Revision]
	reports   *newest[*agentcfg.ConfigurationFile]
	acting    sync.WaitGroup // what these have started
	unfollow  func()

	mu      sync.Mutex
	current *configuration
	changed chan struct{} // closed when current changes
	held    string        // the commit that an agent says it holds
	// lastGood is from before this feed; it comes into force when the newest file cannot.
	lastGood *configuration
	// complained is the newest complaint, so that the log has each once.
	complained string
}

// open follows the file until close. There are many feeds: they have goroutines only while
// they act on what the file says, which ends when ctx does.
func (f *feed) open(ctx context.Context) {
	start := func(act func(context.Context)) { f.acting.Go(func() { act(ctx) }) }
	f.revisions.open(start)
	f.reports.open(start)
	f.unfollow = f.files.Follow(ctx, f.repo, gitrepo.Ref{}, f.cfg.PollPeriod, f.revisions.put)
}

// close returns when nothing runs any more. The context of open must have ended.
func (f *feed) close() {
	f.unfollow()
	f.revisions.close()
	f.reports.close()
	f.acting.Wait()
}

// get returns the configuration in force (nil: none yet) and a channel that is closed when
// there is another.
func (f *feed) get() (*configuration, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current, f.changed
}

// hint notes the commit of the configuration that an agent holds.
func (f *feed) hint(commit string) {
	f.mu.Lock()
	news := commit != "" && f.held == "" && f.current == nil
	if news {
		f.held = commit
	}
	f.mu.Unlock()
	if news {
		f.revisions.again()
	}
}

// load acts on what the default branch names now. It tells whether to try again.
func (f *feed) load(ctx context.Context, revision gitrepo.Revision) (again bool) {
	switch problem := revision.Problem; {
	case problem == nil:
	case errors.Is(problem, gitrepo.ErrEmpty):
		f.publish(&configuration{asWritten: &agentcfg.ConfigurationFile{}}, f.missing("has no commit yet"))
		return false
	default:
		// The follower of the branch tries again by itself.
		f.fallBack(ctx)
		f.complain(fmt.Sprintf("the agent's configuration cannot be read: %v", problem), 0)
		return false
	}
	cfg, err := f.read(ctx, revision.CommitID)
	var mistake *protoconf.Error
	var large *gitrepo.TooLargeError
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		f.publish(cfg, nil)
	case errors.Is(err, gitrepo.ErrFileNotFound):
		f.publish(&configuration{commit: revision.CommitID, asWritten: &agentcfg.ConfigurationFile{}}, f.missing("has no such file"))
	case errors.As(err, &mistake):
		f.fallBack(ctx)
		f.complain(mistake.Message, mistake.Line)
	case errors.As(err, &large):
		f.fallBack(ctx)
		f.complain(large.Error()+" (agent.configuration.max_configuration_file_size of kas)", 0)
	default:
		f.fallBack(ctx)
		f.complain(fmt.Sprintf("the agent's configuration cannot be read: %v", err), 0)
		return true
	}
	return false
}

func (f *feed) read(ctx context.Context, commit string) (*configuration, error) {
	data, err := f.files.File(ctx, f.repo, commit, f.path, f.cfg.MaxFileSize)
	if err != nil {
		return nil, err
	}
	parsed, err := ParseConfiguration(f.path, data)
	if err != nil {
		return nil, err
	}
	return &configuration{commit: commit, asWritten: parsed}, nil
}

// fallBack puts the last good configuration in force where there is none yet: what kas
// remembers, else what stands at the commit that the agent holds. The latter is the agent's
// own already, so failing is no trouble.
func (f *feed) fallBack(ctx context.Context) {
	f.mu.Lock()
	held, lastGood, known := f.held, f.lastGood, f.current != nil
	f.mu.Unlock()
	switch {
	case known:
	case lastGood != nil:
		f.publish(lastGood, nil)
	case commitID.MatchString(held):
		if cfg, err := f.read(ctx, held); err == nil {
			f.publish(cfg, nil)
		}
	}
}

// publish puts a configuration in force. mistake is told along, or nil. Only load calls it,
// so it does not race with itself.
func (f *feed) publish(next *configuration, mistake *syncstatus.FileError) {
	before, _ := f.get()
	// Where the agents have it already, only the commit is new.
	same := before != nil && proto.Equal(before.asWritten, next.asWritten)
	if same {
		next = &configuration{commit: next.commit, asWritten: before.asWritten, full: before.full}
	} else {
		next = &configuration{commit: next.commit, asWritten: next.asWritten, full: WithDefaults(next.asWritten)}
	}
	// The Status learns of projects before the agent opens streams for them.
	f.status.Configuration(f.agent, &syncstatus.ConfigurationStatus{CommitId: next.commit, Error: mistake}, next.projects())
	f.mu.Lock()
	f.current, f.complained = next, ""
	if !same {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	f.mu.Unlock()
	if !same {
		f.log.Info("Agent has a new configuration", logging.AgentID(f.agent.AgentID), logging.Commit(next.commit), zap.Strings("projects", next.projects()))
		f.reports.put(next.asWritten)
	}
}

// complain tells what is wrong with the newest file, while the last good one stays in force.
func (f *feed) complain(message string, line int) {
	told := &syncstatus.ConfigurationStatus{Error: &syncstatus.FileError{Path: f.path, Line: uint32(line), Message: message}}
	var projects []string
	f.mu.Lock()
	if f.current != nil {
		told.CommitId, projects = f.current.commit, f.current.projects()
	} else {
		told.CommitId = f.held
	}
	repeated := f.complained == message
	f.complained = message
	f.mu.Unlock()
	if !repeated {
		f.log.Info("Agent's newest configuration is not in force", logging.AgentID(f.agent.AgentID),
			zap.String("path", f.path), zap.Int("line", line), zap.String("reason", message))
	}
	f.status.Configuration(f.agent, told, projects)
}

func (f *feed) missing(why string) *syncstatus.FileError {
	return &syncstatus.FileError{Path: f.path, Message: fmt.Sprintf(
		"the configuration project %s: create %s on its default branch to tell the agent what to do", why, f.path)}
}

// report tells RoR of a configuration. It tells whether to try again.
func (f *feed) report(ctx context.Context, cfg *agentcfg.ConfigurationFile) (again bool) {
	err := f.rails.PostAgentConfiguration(ctx, f.agent.AgentID, cfg)
	switch {
	case err == nil || ctx.Err() != nil:
		return false
	case errors.Is(err, gitlabapi.ErrUnavailable):
		return true
	}
	f.log.Warn("RoR does not take the agent's configuration", logging.AgentID(f.agent.AgentID), zap.Error(err))
	return false
}
