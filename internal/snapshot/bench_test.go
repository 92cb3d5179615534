package snapshot

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
)

// BenchmarkPicture is the CPU time of one picture of a key frame: by an ffmpeg
// that is simply started on a file, by one that is locked in, and by a child of
// the fork server.
func BenchmarkPicture(b *testing.B) {
	warm := realTool(b)
	cold := ffmpeg.New(ffmpeg.Options{Self: "/proc/self/exe"})
	defer cold.Close()
	for _, codec := range []av.Codec{av.H264, av.HEVC} {
		for _, size := range [][2]int{{1280, 720}, {1920, 1080}} {
			clip := film(b, codec, size[0], size[1], 1, 1)
			s := source{codec: codec}
			for _, p := range clip.packets {
				if p.Kind == av.Video && p.Config {
					s.config = p.Frame
				} else if p.Kind == av.Video && p.Key {
					s.frame = p.Frame
					break
				}
			}
			e, err := s.elementary()
			if err != nil {
				b.Fatal(err)
			}
			name := fmt.Sprintf("%v/%dp/", codec, size[1])
			b.Run(name+"plain", func(b *testing.B) {
				var cpu time.Duration
				for b.Loop() {
					cmd := exec.Command("ffmpeg", strings.Fields("-nostdin -v error -y -i "+clip.file+" -frames:v 1 -f image2 "+filepath.Join(b.TempDir(), "x.jpg"))...)
					if err := cmd.Run(); err != nil {
						b.Fatal(err)
					}
					cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				}
				report(b, cpu)
			})
			for _, x := range []struct {
				name string
				tool *ffmpeg.Tool
			}{{"locked in", cold}, {"forked", warm}} {
				b.Run(name+x.name, func(b *testing.B) {
					var cpu time.Duration
					for b.Loop() {
						out, use, err := x.tool.Run(b.Context(), job(&e, decoders[codec][0], &policy.Snapshot{Quality: 5}, 10*time.Second), e.data)
						if err != nil || len(out) == 0 {
							b.Fatal(err)
						}
						cpu += use.CPU
					}
					report(b, cpu)
				})
			}
		}
	}
}

func report(b *testing.B, cpu time.Duration) {
	b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "cpu-ms/picture")
}
