package transcode

import (
	"cmp"
	"fmt"
	"slices"

	"weir/internal/media/av"
	"weir/internal/media/m3u8"
	"weir/internal/policy"
	"weir/internal/stream"
)

// Ladder returns what a master playlist of s offers: the source, where a template
// wants it, and all renditions, the highest tier first, those included that only
// a player will start. The URI of each is the name of a stream. All reports whether a
// template wants the master playlist under all names. It is nil for a stream
// without renditions.
func (t *Transcoder) Ladder(s *stream.Stream) (variants []m3u8.Variant, all bool) {
	pub := s.Newest()
	if pub.Push().Of != nil {
		return nil, false
	}
	always, played := templates(pub.App(), pub.Push())
	used := append(always, played...)
	if len(used) == 0 {
		return nil, false
	}
	info := s.Info()
	m := media{
		video: info.Video.Codec, audio: info.Audio.Codec, displayWidth: info.Video.DisplayWidth, height: info.Video.Height, bitRate: info.Video.BitRate,
		rate: frameRate(info.Video.Declared, measuredRate(&info.Video, nil)),
	}
	peak, average := bitRates(s, pub, &info)
	t.mu.Lock()
	src := t.sources[s.Key()]
	t.mu.Unlock()
	made := make(map[string]int) // what those that are made aim at, by suffix
	if src != nil {
		src.mu.Lock()
		m.bitRate, peak = max(m.bitRate, src.rate), max(peak, int(src.rate))
		for _, o := range src.outs {
			made[o.Suffix] = o.bitRate
		}
		src.mu.Unlock()
	}
	outs := plan(s.Key().Name, &m, used)
	if src != nil {
		src.mu.Lock()
		outs = slices.DeleteFunc(outs, func(o *output) bool { return src.shed.has(o.Suffix) || src.errs[o.Suffix] != "" || src.errs[""] != "" })
		src.mu.Unlock()
	}
	type rung struct {
		m3u8.Variant
		tier int
	}
	var rungs []rung
	source := false
	for i, o := range outs {
		if !inHLS(o.codec(&m)) {
			continue
		}
		source = source || o.template.Source
		all = all || o.template.Master == policy.MasterAll
		o.bitRate = cmp.Or(made[o.Suffix], o.bitRate)
		v := m3u8.Variant{URI: o.name, Average: o.sum(average), Bandwidth: o.sum(peak) * 5 / 4}
		if o.Bandwidth > 0 {
			v.Bandwidth, v.Average = o.Bandwidth, min(v.Average, o.Bandwidth)
		}
		if o.video {
			v.Width, v.Height, v.FrameRate = o.width, o.height, o.rate.float()
		}
		v.Codecs = o.codecs(t, s)
		tier := o.Tier
		if tier == 0 {
			tier = -i
		}
		rungs = append(rungs, rung{v, tier})
	}
	slices.SortStableFunc(rungs, func(a, b rung) int { return b.tier - a.tier })
	for _, r := range rungs {
		variants = append(variants, r.Variant)
	}
	if source && inHLS(m.video) {
		v := m3u8.Variant{
			URI: s.Key().Name, Average: max(average, 64_000), Bandwidth: max(peak, 64_000) * 5 / 4,
			Width: m.displayWidth, Height: m.height, Codecs: codecs(s),
		}
		if m.video != av.Unknown {
			v.FrameRate = m.rate.float()
		}
		variants = append([]m3u8.Variant{v}, variants...)
	}
	return variants, all
}

// inHLS reports whether HLS has video of that codec, or none.
func inHLS(c av.Codec) bool { return c == av.Unknown || c == av.H264 || c == av.HEVC }

// bitRates returns the highest and the average bit rate of the push pub of s in the last half
// an hour, bit/s, and at first what its publisher says.
func bitRates(s *stream.Stream, pub *stream.Publication, info *stream.Info) (peak, average int) {
	_, tens := s.Timeline()
	tens = slices.DeleteFunc(tens, func(x stream.Sample) bool { return x.Start.Before(pub.Start()) })
	peak, average = int(max(info.Video.BitRate, info.BitRate)), int(cmp.Or(info.BitRate, info.Video.BitRate))
	bits := 0
	for _, x := range tens {
		n := int(x.Bytes) * 8 / tenSeconds
		peak, bits = max(peak, n), bits+n
	}
	if len(tens) > 0 {
		average = bits / len(tens)
	}
	return peak, average
}

// tenSeconds is how long the coarse samples of a stream's time line are.
const tenSeconds = 10

// sum returns the bit rate of o, bit/s: what it aims at, and what is copied of a source of
// that rate.
func (o *output) sum(source int) int {
	sum := 0
	switch {
	case !o.video:
	case o.Copy.Video():
		sum += source
	default:
		sum += o.bitRate
	}
	if o.audio && !(o.Copy.Audio() && o.Copy.Video()) {
		sum += o.AudioBitRate
	}
	return max(sum, 8_000)
}

// codecs returns what the rendition is coded with (RFC 6381): what it says of
// itself if it is there, and otherwise what it will be.
func (o *output) codecs(t *Transcoder, of *stream.Stream) string {
	key := of.Key()
	key.Name = o.name
	if s := t.hub.Find(key); s != nil {
		if c := codecs(s); c != "" {
			return c
		}
	}
	list := ""
	if o.video {
		switch {
		case o.Copy.Video():
			list, _, _ = cutCodecs(codecs(of))
		case o.Codec == policy.VideoHEVC:
			list = "hvc1.1.6.L120.B0"
		default:
			profile := map[policy.VideoProfile]string{policy.ProfileBaseline: "42c0", policy.ProfileHigh: "6400"}[o.Profile]
			if profile == "" {
				profile = "4d40"
			}
			list = fmt.Sprintf("avc1.%s%02x", profile, level(o.width, o.height, o.rate.float()))
		}
	}
	if o.audio {
		if list != "" {
			list += ","
		}
		list += "mp4a.40.2"
	}
	return list
}

// cutCodecs cuts the first of a list of codecs off.
func cutCodecs(list string) (first, rest string, more bool) {
	for i := range len(list) {
		if list[i] == ',' {
			return list[:i], list[i+1:], true
		}
	}
	return list, "", false
}

// level returns the level that H.264 needs for so many macroblocks (table A-1).
func level(w, h int, fps float64) int {
	blocks := float64((w + 15) / 16 * ((h + 15) / 16))
	for _, l := range []struct {
		level       int
		frame, rate float64
	}{{21, 792, 19_800}, {30, 1_620, 40_500}, {31, 3_600, 108_000}, {32, 5_120, 216_000}, {40, 8_192, 245_760}, {42, 8_704, 522_240}, {51, 36_864, 983_040}} {
		if blocks <= l.frame && blocks*fps <= l.rate {
			return l.level
		}
	}
	return 52
}

// codecs returns what s says of its codecs.
func codecs(s *stream.Stream) string {
	video, audio := s.Configs()
	list := ""
	if video != nil {
		list = av.CodecString(video.Codec, video.Frame)
	}
	if audio != nil {
		if a := av.CodecString(audio.Codec, audio.Frame); a != "" {
			if list != "" {
				list += ","
			}
			list += a
		}
	}
	return list
}
