package tunnel

// Agents is how many agents the server remembers.
func Agents(s *Server) int {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return len(s.pool.agents)
}

// Streams is how many streams have said hello and have not left.
func Streams(s *Server) (n int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	for _, a := range s.pool.agents {
		for _, one := range a.processes {
			n += len(one.streams)
		}
	}
	return n
}

// Waiting is how many RPCs wait for a stream of an agent.
func Waiting(s *Server, agentID int64) int {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if a := s.pool.agents[agentID]; a != nil {
		return len(a.waiting)
	}
	return 0
}
