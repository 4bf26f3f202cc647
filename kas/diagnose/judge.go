package diagnose

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
)

const (
	// slowTrip is how long a ping to an agent and back may take before it is worth a
	// remark: syncs bear more, people do not.
	slowTrip = time.Second
	// skewed is by how much clocks may differ.
	skewed = 5 * time.Second
	// restless is how many disconnections within restlessTime are worth a remark.
	restless     = 3
	restlessTime = time.Hour
)

// judge returns the verdicts about facts. tokens may be nil.
func judge(facts *railsrpc.DiagnoseResponse, tokens *railsrpc.AgentTokens) []*railsrpc.Check {
	j := &judgement{facts: facts, now: facts.GetAt().AsTime()}
	j.others()
	if !isThere(facts.GetKas()) {
		j.away(tokens)
	} else {
		j.connection()
		j.tunnel()
		j.trips()
		j.disconnections()
		j.agent()
	}
	j.configuration()
	j.projects()
	return j.checks
}

// judgement is the verdicts so far.
type judgement struct {
	facts  *railsrpc.DiagnoseResponse
	now    time.Time
	checks []*railsrpc.Check
}

func (j *judgement) ok(name, format string, args ...any) {
	j.add(railsrpc.Verdict_VERDICT_OK, name, "", format, args...)
}

func (j *judgement) warn(name, advice, format string, args ...any) {
	j.add(railsrpc.Verdict_VERDICT_WARN, name, advice, format, args...)
}

func (j *judgement) fail(name, advice, format string, args ...any) {
	j.add(railsrpc.Verdict_VERDICT_FAIL, name, advice, format, args...)
}

func (j *judgement) add(verdict railsrpc.Verdict, name, advice, format string, args ...any) {
	j.checks = append(j.checks, &railsrpc.Check{Verdict: verdict, Name: name, Detail: fmt.Sprintf(format, args...), Advice: advice})
}

// others are the kas that could not be asked.
func (j *judgement) others() {
	for _, view := range j.facts.GetKas() {
		if view.GetError() != "" {
			j.warn("kas", "what only it knows is missing here; its log, and that of the kas that RoR asks, say why",
				"%s: %s", cmp.Or(view.GetUrl(), "this kas"), view.GetError())
		}
	}
}

// away is about an agent that is not connected.
func (j *judgement) away(tokens *railsrpc.AgentTokens) {
	detail := notConnected(j.facts.GetKas())
	used := tokens.GetLastUsedAt()
	last, ended := j.lastDeparture()
	switch {
	case last != nil:
		detail += fmt.Sprintf(" since %s (%s ago), after %s: %s", stamp(ended), j.ago(ended), words(last.GetLasted().AsDuration()), last.GetReason())
	case used != nil:
		detail += fmt.Sprintf("; RoR was asked about its token last at %s (%s ago)", stamp(used.AsTime()), j.ago(used.AsTime()))
	case tokens != nil:
		detail += ", and never was"
	}
	j.fail("connection", awayAdvice(tokens, last != nil || used != nil), "%s", detail)
}

// awayAdvice is what to do about an agent that is away. seen: it was there once.
func awayAdvice(tokens *railsrpc.AgentTokens, seen bool) string {
	const say = "its log and /readiness (by default at 127.0.0.1:8152) say why it cannot connect"
	switch {
	case tokens != nil && tokens.GetNumber() == 0:
		return "the agent has no token: create one and put it into the file that agentk's --token-file names"
	case seen:
		return "see in the cluster whether agentk runs; if it does, " + say
	default:
		return "run agentk in the cluster with a token of this agent; if it runs, " + say
	}
}

// lastDeparture is the newest disconnection that any kas knows, and when it was.
func (j *judgement) lastDeparture() (last *agentrpc.Disconnection, at time.Time) {
	for _, view := range j.facts.GetKas() {
		for _, d := range view.GetDisconnections() {
			if t := d.GetAt().AsTime(); last == nil || t.After(at) {
				last, at = d, t
			}
		}
	}
	return last, at
}

// connection tells which replicas of the agent are connected, since when, and to which kas.
func (j *judgement) connection() {
	known := false
	for _, view := range j.facts.GetKas() {
		for _, c := range view.GetConnections() {
			known = true
			where := ""
			if view.GetUrl() != "" {
				where = " to the kas at " + view.GetUrl()
			}
			j.ok("connection", "connected%s for %s: %s", where, j.ago(c.GetConnectedAt().AsTime()), nameOf(c))
		}
	}
	if !known {
		j.warn("connection", "agentk's log says why", "there is the tunnel alone: no replica follows the agent's configuration")
	}
}

// nameOf a replica, for people.
func nameOf(c *railsrpc.ConnectedAgent) string {
	name := "agentk " + cmp.Or(c.GetVersion(), "of an unknown version")
	if c.GetPodName() != "" {
		name += ", pod " + c.GetPodNamespace() + "/" + c.GetPodName()
	}
	return name
}

func (j *judgement) tunnel() {
	var idle, busy uint32
	for _, view := range j.facts.GetKas() {
		for _, streams := range view.GetStreams() {
			idle, busy = idle+streams.GetIdle(), busy+streams.GetBusy()
		}
	}
	if idle+busy == 0 {
		j.fail("tunnel", "agentk's log says why its tunnel's streams end; one that has no tunnel is too old: upgrade it",
			"no stream is open: kas cannot ask the agent anything")
		return
	}
	j.ok("tunnel", "streams: %d idle, %d busy", idle, busy)
}

// trips is about pings and clocks.
func (j *judgement) trips() {
	for _, view := range j.facts.GetKas() {
		p := view.GetPings()
		if p == nil {
			continue
		}
		p50, worst := p.GetRttP50().AsDuration(), p.GetRttWorst().AsDuration()
		switch {
		case p.GetLost() == p.GetSent():
			j.fail("round trip", "the connection may be dead, or agentk hangs: look at agentk's log, and restart it", "no ping was answered: %s", p.GetError())
			continue
		case p.GetLost() > 0:
			j.warn("round trip", "look for what loses packets between kas and the cluster, or keeps agentk from working",
				"%d of %d pings were lost: %s", p.GetLost(), p.GetSent(), p.GetError())
		case p50 >= slowTrip:
			j.warn("round trip", "look at the network between kas and the cluster, and at the load of both", "median %s, worst %s", words(p50), words(worst))
		default:
			j.ok("round trip", "median %s, worst %s", words(p50), words(worst))
		}
		j.clock(p.GetClockSkew().AsDuration(), p.GetClockError().AsDuration())
	}
}

// clock is about the agent's clock, which is ahead by skew.
func (j *judgement) clock(skew, possible time.Duration) {
	detail := fmt.Sprintf("the agent's is %s ahead of kas's, give or take %s", words(skew), words(possible))
	switch {
	case skew.Abs() <= possible:
		detail = "the agent's and kas's are the same, give or take " + words(possible)
	case skew < 0:
		detail = fmt.Sprintf("the agent's is %s behind kas's, give or take %s", words(-skew), words(possible))
	}
	if skew.Abs()-possible < skewed {
		j.ok("clock", "%s", detail)
		return
	}
	j.warn("clock", "have both synchronised (NTP): tokens may be refused, and times in statuses are wrong", "%s", detail)
}

// disconnections is about how earlier connections ended. Both ends know: an agentk that was
// killed remembers nothing, nor does a kas.
func (j *judgement) disconnections() {
	var theirs [][]*agentrpc.Disconnection
	for _, view := range j.facts.GetKas() {
		theirs = append(theirs, view.GetDisconnections())
	}
	seen := slices.Concat(theirs...)
	skew := j.facts.GetAgent().GetNow().AsTime().Sub(j.now)
	if j.facts.GetAgent().GetNow() == nil {
		skew = 0
	}
	var last *agentrpc.Disconnection
	var ended time.Time
	newer := func(d *agentrpc.Disconnection, at time.Time) {
		if last == nil || at.After(ended) {
			last, ended = d, at
		}
	}
	byAgent, byKas := 0, 0
	for _, d := range j.facts.GetAgent().GetDisconnections() {
		at := d.GetAt().AsTime().Add(-skew) // by kas's clock
		newer(d, at)
		if j.now.Sub(at) < restlessTime {
			byAgent++
		}
	}
	for _, d := range seen {
		newer(d, d.GetAt().AsTime())
		if j.now.Sub(d.GetAt().AsTime()) < restlessTime {
			byKas++
		}
	}
	if last == nil {
		j.ok("disconnections", "none that kas or agentk know of")
		return
	}
	newest := fmt.Sprintf("the newest at %s (%s ago), after %s: %s", stamp(ended), j.ago(ended), words(last.GetLasted().AsDuration()), last.GetReason())
	if n := max(byAgent, byKas); n >= restless {
		j.warn("disconnections", "if the reasons do not say it: a load balancer or firewall that ends idle or long connections, or an agentk that is restarted again and again",
			"%d within an hour, %s", n, newest)
		return
	}
	j.ok("disconnections", "%s", newest)
}
