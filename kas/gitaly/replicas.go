package gitaly

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"time"
)

// Replicas are the kas that act as one with this one. Their methods do not block.
type Replicas interface {
	// Turn takes part in who polls the ref of that name, until End is called.
	Turn(name string) Turn
	// Tell has Refs.Heard of each other replica called with the message. It may get lost,
	// and Heard(nil) is called where that may have happened.
	Tell(message []byte)
}

// Turn is a part in who polls a ref.
type Turn interface {
	// Theirs tells whether another replica polls the ref; false as well where that is not
	// known. changed is closed when it may be different.
	Theirs() (theirs bool, changed <-chan struct{})
	// End ends the part. It is called once.
	End()
}

const (
	// safety is how many periods apart a poller looks for itself while another replica
	// polls: it would be told of what is new.
	safety = 10
	// troubled is the state of a ref that a person must do something about; blind is what
	// others are told while the one that polls cannot see: they have to look for themselves.
	troubled = "!"
	blind    = "?"
)

// alone is the Turn of a kas without replicas.
type alone struct{}

func (alone) Theirs() (bool, <-chan struct{}) { return false, nil }
func (alone) End()                            {}

// name of a ref among replicas: it says nothing to those who can read it.
func (k refKey) name() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q", k.address, k.storage, k.path, k.ref.Branch, k.ref.Tag, k.ref.Commit))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// separator is between a ref's name and its state in messages.
var separator = []byte{' '}

// Heard takes what another replica told. Nil: something may have been missed. It is
// believed only in so far as Gitaly is asked.
func (r *Refs) Heard(message []byte) {
	name, state, _ := bytes.Cut(message, separator)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pollers {
		switch {
		case message == nil:
			p.doubt()
		case p.name == string(name):
			p.hear(string(state))
		}
	}
}

// doubt has the poller look for itself within a period.
func (p *poller) doubt() {
	select {
	case p.doubts <- struct{}{}:
	default:
	}
}

// hear has the poller look at once, unless it knows that already.
func (p *poller) hear(state string) {
	p.mu.Lock()
	p.heard = state
	known := state == p.state
	p.mu.Unlock()
	if !known {
		p.poke()
	}
}

// found notes the state that a poll has found, and tells the other replicas if they may
// not know it: they look for themselves when they begin, and told it who knew it first.
func (p *poller) found(state string) {
	p.mu.Lock()
	news := p.state != "" && p.state != state && p.heard != state || p.blind
	p.state, p.blind = state, false
	p.mu.Unlock()
	if news {
		p.tell(state)
	}
}

// failed tells the other replicas, who leave polling to this one, that it cannot see.
func (p *poller) failed() {
	theirs, _ := p.turn.Theirs()
	p.mu.Lock()
	news := !theirs && !p.blind
	p.blind = p.blind || news
	p.mu.Unlock()
	if news {
		p.tell(blind)
	}
}

func (p *poller) tell(state string) {
	if p.refs.replicas != nil {
		p.refs.replicas.Tell(fmt.Appendf(nil, "%s%s%s", p.name, separator, state))
	}
}

// takeTurn returns the poller's part in who polls.
func (p *poller) takeTurn() Turn {
	if p.refs.replicas == nil || p.key.ref.Commit != "" {
		return alone{}
	}
	return p.refs.replicas.Turn(p.name)
}

// leaves tells whether polling may be left to another replica: not while this one is in
// trouble, or has been told of something that it cannot see yet.
func (p *poller) leaves(theirs bool) bool {
	if !theirs || p.failures > 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard == "" || p.heard == p.state
}

// pause waits until the next poll is due, after one that took so long. It returns false
// when the poller is to end.
func (p *poller) pause(done <-chan struct{}, took time.Duration) bool {
	theirs, changed := p.turn.Theirs()
	due := p.refs.clock.Now().Add(p.wait(took, p.leaves(theirs)))
	for {
		timer := p.refs.clock.NewTimer(due.Sub(p.refs.clock.Now()))
		select {
		case <-done:
			timer.Stop()
			return false
		case <-timer.C():
			return true
		case <-p.wake:
			timer.Stop()
			return true
		case <-p.doubts:
			due = p.sooner(due)
		case <-changed:
			if theirs, changed = p.turn.Theirs(); p.leaves(theirs) {
				due = p.refs.clock.Now().Add(p.wait(0, true))
			} else {
				due = p.sooner(due)
			}
		}
		timer.Stop()
	}
}

// sooner is some time within a period, or due where that is before: what concerns this
// poller concerns many others.
func (p *poller) sooner(due time.Time) time.Time {
	p.mu.Lock()
	period := p.period
	p.mu.Unlock()
	//nolint:gosec // spreads load, keeps no secret
	soon := p.refs.clock.Now().Add(time.Duration(rand.Float64() * float64(period)))
	if soon.Before(due) {
		return soon
	}
	return due
}
