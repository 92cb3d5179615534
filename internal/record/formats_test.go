package record

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/Eyevinn/mp4ff/mp4"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
)

// every lets a recording be made in every format.
func every(r *policy.Record) { r.MP4.Enabled, r.FLV.Enabled = true, true }

// everywhere waits for n recordings in every format, and checks that each
// format has all that was pushed. It returns the facts of HLS and what it holds.
func (w *world) everywhere(n int) (list []event.RecordFinished, files []*file) {
	w.t.Helper()
	have := map[string][]*file{}
	for _, f := range w.finished(3 * n) {
		got := w.readAny(&f)
		have[f.Format] = append(have[f.Format], got)
		if f.Format == "hls" {
			list, files = append(list, f), append(files, got)
		}
	}
	for _, format := range formats {
		if len(have[format]) != n {
			w.t.Fatalf("%d files of %s, want %d", len(have[format]), format, n)
		}
		w.all(have[format]...)
	}
	return list, files
}

func (w *world) readAny(f *event.RecordFinished) *file {
	w.t.Helper()
	switch f.Format {
	case "hls":
		return w.read(*f)
	case "mp4":
		return w.readMP4(f.Key)
	default:
		return w.readFLV(f.Key)
	}
}

// readMP4 returns the frames of an MP4 file, as somebody else's reading of its
// tables has them. Their times are those of the movie.
func (w *world) readMP4(key string) *file {
	w.t.Helper()
	data := w.get(key)
	f, err := mp4.DecodeFile(bytes.NewReader(data))
	if err != nil {
		w.t.Fatalf("%s: %v", key, err)
	}
	got := &file{frames: map[av.Kind][]string{}}
	for _, trak := range f.Moov.Traks {
		kind, box := av.Video, trak.Mdia.Minf.Stbl
		if trak.Mdia.Hdlr.HandlerType == "soun" {
			kind = av.Audio
		}
		shift := 0.0 // of the movie against the media, in ms
		if trak.Edts != nil {
			for _, e := range trak.Edts.Elst[0].Entries {
				if e.MediaTime < 0 {
					shift += float64(e.SegmentDuration) * 1000 / float64(f.Moov.Mvhd.Timescale)
				} else {
					shift -= float64(e.MediaTime) * 1000 / float64(trak.Mdia.Mdhd.Timescale)
				}
			}
		}
		at, chunk := uint64(0), 0
		for n := 1; n <= int(box.Stsz.GetNrSamples()); n++ {
			c, _, err := box.Stsc.ChunkNrFromSampleNr(n)
			if err != nil {
				w.t.Fatalf("%s: %v", key, err)
			}
			if c != chunk {
				chunk = c
				if box.Stco != nil {
					at, err = box.Stco.GetOffset(c)
				} else {
					at, err = box.Co64.GetOffset(c)
				}
				if err != nil {
					w.t.Fatalf("%s: %v", key, err)
				}
			}
			size := uint64(box.Stsz.GetSampleSize(n))
			p := av.Packet{Kind: kind, Codec: av.AAC, Frame: data[at : at+size]}
			if kind == av.Video {
				p.Codec = av.H264
			}
			row := int(box.Stsc.FindEntryNrForSampleNr(uint32(n), 0)) + 1 // by which it has the entries
			switch box.Stsd.Children[box.Stsc.GetSampleDescriptionID(row)-1].Type() {
			case "hvc1":
				p.Codec = av.HEVC
			case "Opus":
				p.Codec = av.Opus
			}
			at += size
			dts, _ := box.Stts.GetDecodeTime(uint32(n))
			p.DTS = int64(math.Round(float64(dts)*1000/float64(trak.Mdia.Mdhd.Timescale) + shift))
			if box.Ctts != nil {
				p.CTS = box.Ctts.GetCompositionTimeOffset(uint32(n))
			}
			got.packets = append(got.packets, p)
			got.frames[kind] = append(got.frames[kind], number(w.t, p))
		}
	}
	return got
}

// beat is when a frame comes.
type beat struct {
	kind av.Kind
	at   float64 // ms
	cts  int32
	key  bool
}

// play pushes frames at their times.
func (e *encoder) play(beats []beat) {
	e.w.t.Helper()
	e.begin()
	now := e.at
	for _, b := range beats {
		at := int64(math.Round(b.at))
		time.Sleep(time.Duration(at-now) * time.Millisecond)
		now = max(now, at)
		p := av.Packet{Kind: b.kind, Codec: av.AAC, DTS: at, CTS: b.cts, Key: b.key, Frame: e.frame(b.kind, b.key)}
		if b.kind == av.Video {
			p.Codec = e.codec()
		}
		e.write(p)
	}
}

// onTime checks that a file has frames when they were pushed, from the first one
// on: picture to the millisecond, and sound nearly so.
func (w *world) onTime(format string, f *file, beats []beat, near float64) {
	w.t.Helper()
	var want [3][]float64
	for _, b := range beats {
		want[b.kind] = append(want[b.kind], b.at+float64(b.cts))
	}
	var off [3]float64 // of the file against the push
	var n [3]int
	for _, p := range f.packets {
		k := p.Kind
		if n[k] >= len(want[k]) {
			w.t.Fatalf("%s: too many frames", format)
		}
		away := float64(p.PTS()) - want[k][n[k]]
		if n[k] == 0 {
			off[k] = away
		}
		limit := 1.0
		if k == av.Audio {
			limit = near
		}
		if math.Abs(away-off[k]) > limit {
			w.t.Fatalf("%s: %v frame %d at %d ms is %.1f ms away from where it was", format, k, n[k], p.PTS(), away-off[k])
		}
		n[k]++
	}
	if n[av.Video] > 0 && n[av.Audio] > 0 && math.Abs(off[av.Video]-off[av.Audio]) > near {
		w.t.Errorf("%s: picture is %.1f ms and sound %.1f ms away from where they were", format, off[av.Video], off[av.Audio])
	}
}

// aacBeat is how long a frame of AAC at 48 kHz takes, in ms.
const aacBeat = 1024.0 / 48

// A variable frame rate: from many frames in a moment to a picture that stands
// for seconds. Every frame is in every format, at its time.
func TestVariableFrameRate(t *testing.T) {
	for name, offsets := range map[string]bool{"plain": false, "B-frames": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
				e := w.both(w.push())
				e.audio = aacConfig48k
				r := rand.New(rand.NewPCG(1, 2))
				var beats []beat
				picture, sound, key := 0.0, 0.0, -10_000.0
				for picture < 120_000 {
					if sound <= picture {
						beats = append(beats, beat{kind: av.Audio, at: sound})
						sound += aacBeat
						continue
					}
					b := beat{kind: av.Video, at: picture, key: picture-key > 4000}
					if b.key {
						key = picture
					}
					if offsets {
						b.cts = int32(40 * r.IntN(4))
					}
					beats = append(beats, b)
					switch mood := int(picture/20_000) % 3; {
					case mood == 0:
						picture += float64(1 + r.IntN(120))
					case mood == 1: // a slide show
						picture += float64(500 + r.IntN(2000))
					default:
						picture += []float64{1, 2, 16, 17, 33, 34, 250}[r.IntN(7)]
					}
				}
				e.play(beats)
				e.end()
				list := w.finished(3)
				for i := range list {
					f := &list[i]
					got := w.readAny(f)
					w.all(got)
					w.onTime(f.Format, got, beats, 3)
					if d := f.Duration - 120*time.Second; d < -time.Second || d > 3*time.Second {
						t.Errorf("%s lasts %v", f.Format, f.Duration)
					}
				}
			})
		})
	}
}

// One hour: sound and picture stay together in every format, also where the
// clock of the sound is not that of the picture.
func TestDrift(t *testing.T) {
	for name, clock := range map[string]float64{"one clock": 1, "sound is fast": 0.9995, "sound is slow": 1.0005} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *policy.Record, _ *Options) { every(r) }, func(t *testing.T, w *world) {
				e := w.both(w.push())
				e.audio = aacConfig48k
				var beats []beat
				for picture, sound := 0.0, 0.0; picture < 3_600_000; {
					if sound <= picture {
						beats = append(beats, beat{kind: av.Audio, at: sound})
						sound += aacBeat * clock
						continue
					}
					beats = append(beats, beat{kind: av.Video, at: picture, key: int(picture)%2000 == 0})
					picture += 40
				}
				e.play(beats)
				e.end()
				list := w.finished(3)
				for i := range list {
					f := &list[i]
					got := w.readAny(f)
					w.all(got)
					w.onTime(f.Format, got, beats, 20)
					if d := f.Duration - time.Hour; d < -20*time.Millisecond || d > 300*time.Millisecond {
						t.Errorf("%s lasts %v", f.Format, f.Duration)
					}
				}
			})
		})
	}
}
