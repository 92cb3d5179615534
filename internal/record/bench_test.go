package record

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"weir/internal/event"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/storage"
	"weir/internal/stream"
)

// BenchmarkStreams pushes 500 streams of 1 Mbit/s in real time, first without
// and then with recording, and says what recording one of them takes of a
// processor. The bucket is a directory.
//
//	go test ./internal/record -run - -bench Streams -benchtime 1x
func BenchmarkStreams(b *testing.B) {
	const streams, period = 500, 20 * time.Second
	run := func(mode policy.RecordMode) time.Duration {
		bucket, err := storage.OpenDirectory("archive", b.TempDir(), nil)
		if err != nil {
			b.Fatal(err)
		}
		hub := stream.NewHub(stream.Options{})
		r, err := Open(hub, Options{
			Dir: b.TempDir(), Emit: func(event.Event) {},
			Bucket: func(string) (storage.Bucket, error) { return bucket, nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		app := policy.DefaultApp("live")
		app.Record.Mode = mode
		var pubs []*stream.Publication
		for i := range streams {
			p, err := hub.Publish(stream.Key{Space: "default", App: "live", Name: fmt.Sprint("s", i)}, &app, stream.Push{})
			if err != nil {
				b.Fatal(err)
			}
			p.WritePacket(av.Packet{Kind: av.Video, Codec: av.H264, Config: true, Tag: avcConfig, Frame: avcConfig})
			p.WritePacket(av.Packet{Kind: av.Audio, Codec: av.AAC, Config: true, Tag: aacConfig, Frame: aacConfig})
			pubs = append(pubs, p)
		}
		const frame, sound = 4400, 320 // 25 and 50 in a second: 1 Mbit/s
		before := cpu()
		for at, start := time.Duration(0), time.Now(); at < period; at += 20 * time.Millisecond {
			time.Sleep(at - time.Since(start))
			for i, p := range pubs {
				t := at.Milliseconds() + int64(i)
				if t/20%2 == 0 {
					nal := make([]byte, frame)
					nal[2], nal[3], nal[4] = (frame-4)>>8, (frame-4)&0xFF, 0x41
					key := t/40%50 == 0
					if key {
						nal[4] = 0x65
					}
					for j := range nal[5:] {
						nal[5+j] = byte(j)*7 | 1
					}
					p.WritePacket(av.Packet{Kind: av.Video, Codec: av.H264, Key: key, DTS: t, Tag: nal, Frame: nal})
				}
				a := make([]byte, sound)
				p.WritePacket(av.Packet{Kind: av.Audio, Codec: av.AAC, DTS: t, Tag: a, Frame: a})
			}
		}
		used := cpu() - before
		if st := r.Stats(); mode != policy.RecordOff && (st.Stops > 0 || st.Recording != streams) {
			b.Errorf("%+v", st)
		}
		if err := hub.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		r.Close()
		return used
	}
	for b.Loop() {
		off := run(policy.RecordOff)
		on := run(policy.RecordAutomatic)
		b.ReportMetric(100*(on-off).Seconds()/period.Seconds()/streams, "%core/stream")
		b.ReportMetric(off.Seconds()/period.Seconds(), "cores-without")
	}
}

// cpu returns the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
