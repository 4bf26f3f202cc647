package tunnel

import "github.com/kas-agentk/kas/api/railsrpc"

// Streams tells of the streams that processes of an agent have open here, the process that
// was connected first comes first.
func (s *Server) Streams(agentID int64) []*railsrpc.TunnelStreams {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.agents[agentID]
	if a == nil {
		return nil
	}
	all := make([]*railsrpc.TunnelStreams, 0, len(a.processes))
	for _, one := range a.processes {
		idle := len(one.idle)
		all = append(all, &railsrpc.TunnelStreams{
			InstanceId: one.instance,
			Idle:       uint32(idle), Busy: uint32(len(one.streams) - idle),
		})
	}
	return all
}
