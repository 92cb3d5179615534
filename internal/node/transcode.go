package node

import (
	"context"
	"fmt"
	"io"

	"weir/internal/hls"
	"weir/internal/stream"
	"weir/internal/transcode"
)

// openTranscoder makes what makes renditions, with the node's ffmpeg, and offers
// them to HLS players.
func (n *Node) openTranscoder() {
	n.transcoder = transcode.New(n.hub, n.ffmpeg, transcode.Options{
		Log: n.log, Max: n.cfg.Transcode.Max, Font: n.cfg.Transcode.Font, Picture: n.picture,
		Raise: n.quality.Raise, Clear: n.quality.Clear,
	})
	n.hls.Offer(func(s *stream.Stream) *hls.Ladder {
		variants, all := n.transcoder.Ladder(s)
		if len(variants) == 0 {
			return nil
		}
		return &hls.Ladder{Variants: variants, All: all}
	})
}

// picture returns an object of a bucket that is no larger than most.
func (n *Node) picture(ctx context.Context, bucket, key string, most int64) ([]byte, error) {
	b, err := n.buckets.Named(bucket)
	if err != nil {
		return nil, err
	}
	r, o, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if o.Size > most {
		return nil, fmt.Errorf("it has %d bytes; %d are the most", o.Size, most)
	}
	return io.ReadAll(io.LimitReader(r, most))
}
