package hls

import "weir/internal/stream"

// Players returns about how many play each stream that has HLS players: who
// asked for the playlist while it stayed the same.
func (s *Server) Players() map[stream.Key]int {
	all := make(map[stream.Key]int)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, c := range s.channels {
		if c.job != nil {
			all[key] = int(c.players.Load()) + int(c.waiting.Load())
		}
	}
	return all
}
