package agents

import "sync"

// bells tell those who watch over an agent's token that RoR is to be asked anew.
type bells struct {
	mu sync.Mutex
	// byAgent has a channel for each agent that was ever watched over.
	byAgent map[int64]chan struct{}
}

// of returns a channel that is closed when the agent's bell rings next.
func (b *bells) of(agentID int64) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	bell, ok := b.byAgent[agentID]
	if !ok {
		if b.byAgent == nil {
			b.byAgent = make(map[int64]chan struct{})
		}
		bell = make(chan struct{})
		b.byAgent[agentID] = bell
	}
	return bell
}

func (b *bells) ring(agentID int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bell, ok := b.byAgent[agentID]; ok {
		close(bell)
		delete(b.byAgent, agentID)
	}
}
