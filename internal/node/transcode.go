package node

import (
	"context"
	"fmt"
	"io"
	"strings"

	"weir/internal/hls"
	"weir/internal/policy"
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
		return &hls.Ladder{Variants: variants, All: all, Play: func() { n.transcoder.Play(s) }}
	})
}

// checkEncoders says at the start what this machine encodes with, and which renditions
// of the policy it cannot make. Where there are none it says nothing.
func (n *Node) checkEncoders(ctx context.Context) {
	set := n.Policy()
	first := transcoded(set)
	if first == "" {
		return
	}
	if err := n.ffmpeg.Ready(ctx); err != nil { // nor are those that only copy
		if ctx.Err() == nil {
			n.log.Warn("no renditions will be made", "setting", first, "err", err)
		}
		return
	}
	n.sayEncoders(ctx)
	for i := range set.Spaces {
		for j := range set.Spaces[i].Apps {
			for k := range set.Spaces[i].Apps[j].Transcode {
				t := &set.Spaces[i].Apps[j].Transcode[k]
				for l := range t.Outputs {
					r := &t.Outputs[l]
					if !r.Encodes() {
						continue
					}
					if err := n.transcoder.Can(ctx, t.Encoder, r.Codec); err != nil && ctx.Err() == nil {
						n.log.Warn("a rendition cannot be made here", "setting", fmt.Sprintf("spaces[%d].apps[%d].transcode[%d].outputs[%d]", i, j, k, l), "err", err)
					}
				}
			}
		}
	}
}

// transcoded returns the path of the setting that has renditions made, if there is
// any.
func transcoded(set *policy.Set) string {
	for i := range set.Spaces {
		for j := range set.Spaces[i].Apps {
			if len(set.Spaces[i].Apps[j].Transcode) > 0 {
				return fmt.Sprintf("spaces[%d].apps[%d].transcode", i, j)
			}
		}
	}
	return ""
}

func (n *Node) sayEncoders(ctx context.Context) {
	var works []string
	for _, a := range n.transcoder.Abilities(ctx) {
		if a.Works {
			works = append(works, a.Name)
		} else {
			n.log.Debug("an encoder does not work here", "encoder", a.Name, "err", a.Error)
		}
	}
	if ctx.Err() == nil {
		n.log.Info("renditions can be encoded", "with", strings.Join(works, " "))
	}
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
