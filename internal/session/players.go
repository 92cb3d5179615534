package session

import "weir/internal/stream"

// Of returns the sessions of one stream, in no order.
func (s *Server) Of(key stream.Key) []Info {
	var list []Info
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.sessions {
		if ss.kind != (Kind{}) && ss.grant.Key() == key {
			list = append(list, ss.info())
		}
	}
	return list
}

// Find returns the session of that id.
func (s *Server) Find(id ID) (i Info, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.sessions {
		if ss.id == id && ss.kind != (Kind{}) {
			return ss.info(), true
		}
	}
	return Info{}, false
}

// KickPlayers ends all who play a stream, by its owner's will, and returns how
// many they were.
func (s *Server) KickPlayers(key stream.Key) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for ss := range s.sessions {
		if ss.player != nil && ss.grant.Key() == key {
			ss.player.Close(ErrKicked)
			n++
		}
	}
	return n
}
