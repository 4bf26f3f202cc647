package wstransport

import (
	"os"
	"sync"
	"time"
)

// deadline of one direction of a connection.
type deadline struct {
	mu    sync.Mutex
	at    time.Time // zero: none
	timer *time.Timer
	// moved counts how often the deadline was set: a timer may fire for the one before.
	moved int
	// active is true while a read or write is under way, cut once the deadline has ended it.
	active, cut bool
}

// set moves the deadline; zero: there is none. end is called when it comes while a
// read or write is under way.
func (d *deadline) set(t time.Time, end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	d.moved++
	if moved := d.moved; !t.IsZero() {
		d.timer = time.AfterFunc(max(time.Until(t), 0), func() { d.expire(moved, end) })
	}
}

func (d *deadline) expire(moved int, end func()) {
	d.mu.Lock()
	now := d.active && d.moved == moved
	d.cut = d.cut || now
	d.mu.Unlock()
	if now {
		end()
	}
}

// begin notes that a read or write begins; it returns os.ErrDeadlineExceeded when it is
// too late for one.
func (d *deadline) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut || !d.at.IsZero() && !time.Now().Before(d.at) {
		return os.ErrDeadlineExceeded
	}
	d.active = true
	return nil
}

// end notes that it has ended, and says whether the deadline did that.
func (d *deadline) end() (cut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = false
	return d.cut
}

// stop lets go of the timer.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}
