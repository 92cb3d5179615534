package api

import (
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/quality"
	"weir/internal/stream"
)

// The quality of a push with picture and sound: bit rate, frame rate and key
// frames of each second and of each ten, as they change, and what they are now.
func TestTimelineOfVideo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		monitor := quality.NewMonitor(quality.Options{})
		hub := stream.NewHub(stream.Options{Began: monitor.Began, Ended: monitor.Ended})
		s := &Server{Options: Options{Hub: hub, Quality: monitor, Node: "n1"}}
		app := policy.DefaultApp("live")
		app.IdleTimeout = time.Hour
		pub, err := hub.Publish(stream.Key{Space: "default", App: "live", Name: "film"}, &app, stream.Push{Sequence: "seq"})
		if err != nil {
			t.Fatal(err)
		}
		start, dts := time.Now(), time.Duration(0)
		// film publishes for a while: frames of bytes each, one of every gop a key.
		film := func(d, frame time.Duration, gop, bytes int) {
			t.Helper()
			for n := 0; time.Duration(n)*frame < d; n++ {
				video := av.Packet{Kind: av.Video, Codec: av.H264, Key: n%gop == 0, DTS: dts.Milliseconds(), Tag: make([]byte, bytes)}
				video.Frame = video.Tag[5:]
				sound := av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: dts.Milliseconds(), Tag: make([]byte, 100)}
				sound.Frame = sound.Tag[2:]
				for _, p := range []av.Packet{video, sound} {
					if err := pub.WritePacket(p); err != nil {
						t.Fatal(err)
					}
				}
				dts += frame
				time.Sleep(frame)
			}
		}
		film(20*time.Second, 40*time.Millisecond, 50, 4900)   // 25 frames a second, a key frame every 2 s, 1 Mbit/s
		film(20*time.Second, 20*time.Millisecond, 200, 4900)  // 50, every 4 s, 2 Mbit/s
		film(10*time.Second, 100*time.Millisecond, 100, 4900) // 10, every 10 s, 0.4 Mbit/s

		path := &StreamPath{"default", "live", "film"}
		line, err := s.getTimeline(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		seconds, tens := line.Body.Seconds, line.Body.Tens
		if len(seconds) < 49 || len(tens) < 4 {
			t.Fatalf("%d seconds and %d tens", len(seconds), len(tens))
		}
		for i, x := range seconds {
			at := x.Start.Sub(start)
			if i > 0 && x.Start.Sub(seconds[i-1].Start) != time.Second {
				t.Errorf("second %d begins at %v", i, at)
			}
			frames, every, offset := 25, 2*time.Second, time.Duration(0)
			switch {
			case at >= 40*time.Second:
				frames, every, offset = 10, 10*time.Second, 40*time.Second
			case at >= 20*time.Second:
				frames, every, offset = 50, 4*time.Second, 20*time.Second
			}
			keys := 0
			if (at-offset)%every == 0 {
				keys = 1
			}
			if x.VideoFrames != frames || x.AudioFrames != frames || x.Bytes != int64(frames*5000) || x.BitRate != int64(frames*40_000) || x.KeyFrames != keys || x.Jumps != 0 || x.Drift != 0 {
				t.Errorf("the second at %v is %+v, want %d frames and %d key frames", at, x, frames, keys)
			}
			interval := 0.0
			if keys == 1 && at > 0 { // the one before ended with it
				interval = every.Seconds()
				switch at {
				case 20 * time.Second:
					interval = 2
				case 40 * time.Second:
					interval = 4
				}
			}
			if x.KeyInterval != interval {
				t.Errorf("the second at %v has the key interval %v, want %v", at, x.KeyInterval, interval)
			}
		}
		for i, want := range []Sample{
			{VideoFrames: 250, KeyFrames: 5, KeyInterval: 2, BitRate: 1_000_000}, {VideoFrames: 250, KeyFrames: 5, KeyInterval: 2, BitRate: 1_000_000},
			{VideoFrames: 500, KeyFrames: 3, KeyInterval: 4, BitRate: 2_000_000}, {VideoFrames: 500, KeyFrames: 2, KeyInterval: 4, BitRate: 2_000_000},
		} {
			x := tens[i]
			if x.Start.Sub(start) != time.Duration(i)*10*time.Second || x.VideoFrames != want.VideoFrames || x.AudioFrames != want.VideoFrames ||
				x.KeyFrames != want.KeyFrames || x.KeyInterval != want.KeyInterval || x.BitRate != want.BitRate {
				t.Errorf("ten seconds from %v are %+v, want %+v", x.Start.Sub(start), x, want)
			}
		}
		now, err := s.getStream(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if v := now.Body.Video; v == nil || v.Codec != "h264" || v.FrameRate != 10 || v.GOP != 200 || v.KeyInterval != 4 || v.SinceKey != 10 || v.Frames != 500+1000+100 {
			t.Errorf("the video is %+v", v)
		}
		if now.Body.BitRate != 400_000 || now.Body.Audio == nil || now.Body.Audio.Frames != 1600 {
			t.Errorf("the stream is %+v", now.Body)
		}
		pub.End(stream.EndKicked)
		if err := hub.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
