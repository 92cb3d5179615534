package transcode

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/ffmpeg"
	"weir/internal/media/av"
	"weir/internal/policy"
	"weir/internal/stream"
)

// A job has the devices of its encoders and no others, and none for encoders that need none. No
// card was there to try them on.
func TestHardware(t *testing.T) {
	tr := New(stream.NewHub(stream.Options{}), ffmpeg.New(ffmpeg.Options{}), Options{})
	tr.dev = t.TempDir()
	for _, kind := range hardware {
		if _, err := tr.newEncoder(kind, candidates[kind][0]); err == nil || !strings.Contains(err.Error(), "this machine has no "+tr.dev) {
			t.Errorf("%v without a device: %v", kind, err)
		}
	}
	for _, name := range []string{"dri/renderD129", "dri/renderD130", "dri/card0", "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "sda", "kvm"} {
		path := filepath.Join(tr.dev, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	film := &media{video: av.H264, width: 1280, displayWidth: 1280, height: 720, rate: rate{30, 1}}
	for _, tt := range []struct {
		kind    policy.Encoder
		devices string
		args    []string // in this order
	}{
		{policy.EncoderCPU, "[]", []string{"-c:v libx264", "-c:v libx264"}},
		{policy.EncoderVAAPI, "[dri/renderD129]", []string{"-init_hw_device vaapi=va:DEV/dri/renderD129 -filter_hw_device va", "format=pix_fmts=nv12,hwupload[out0]", "-c:v h264_vaapi", "-profile:v main", "-profile:v constrained_baseline"}},
		{policy.EncoderQSV, "[dri/renderD129]", []string{"-init_hw_device qsv=qs,child_device=DEV/dri/renderD129", "format=pix_fmts=nv12[out0]", "-c:v h264_qsv", "-profile:v baseline"}},
		{policy.EncoderNVENC, "[nvidia0 nvidia1 nvidiactl nvidia-uvm]", []string{"-c:v h264_nvenc", "-bf:v 0 -forced-idr:v 1 -no-scenecut:v 1"}},
	} {
		outs := plan("s1", film, []*policy.Transcode{template(
			rung(func(r *policy.Rendition) { r.ShortSide = 360 }),
			rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide, r.Profile = "_b", 180, policy.ProfileBaseline }),
		)})
		for _, o := range outs {
			var err error
			if o.enc, err = tr.newEncoder(tt.kind, candidates[tt.kind][0]); err != nil {
				t.Fatal(err)
			}
		}
		j := tr.command("s1", film, outs, nil, lead).job
		var devices []string
		for _, d := range j.Devices {
			name, _ := filepath.Rel(tr.dev, d)
			devices = append(devices, name)
		}
		if got := fmt.Sprint(devices); got != tt.devices {
			t.Errorf("%v: devices %s, want %s", tt.kind, got, tt.devices)
		}
		if n := len(j.Files); (n == 0) != (tt.kind == policy.EncoderCPU) || slices.Contains(j.Files, tr.dev) {
			t.Errorf("%v: files %q", tt.kind, j.Files)
		}
		args, err := j.Args()
		if err != nil {
			t.Fatal(err)
		}
		rest, ok := strings.Join(args, " "), true
		for _, want := range tt.args {
			if _, rest, ok = strings.Cut(rest, strings.ReplaceAll(want, "DEV", tr.dev)); !ok {
				t.Errorf("%v: %s is not in %q", tt.kind, want, args)
			}
		}
	}
}

// Two ways to the same card are in one job side by side.
func TestHardwareShared(t *testing.T) {
	tr := New(stream.NewHub(stream.Options{}), ffmpeg.New(ffmpeg.Options{}), Options{})
	tr.dev = t.TempDir()
	node := filepath.Join(tr.dev, "dri/renderD128")
	if err := os.MkdirAll(filepath.Dir(node), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := new(ffmpeg.Job)
	for _, kind := range []policy.Encoder{policy.EncoderQSV, policy.EncoderVAAPI, policy.EncoderQSV, policy.EncoderVAAPI} {
		e, err := tr.newEncoder(kind, candidates[kind][0])
		if err != nil {
			t.Fatal(err)
		}
		e.use(j)
	}
	args, err := j.Args()
	if err != nil {
		t.Fatal(err)
	}
	if want := "-init_hw_device qsv=qs,child_device=" + node + " -init_hw_device vaapi=va:" + node + " -filter_hw_device va"; !strings.Contains(strings.Join(args, " "), want) {
		t.Errorf("%q, want %s", args, want)
	}
	if len(j.Devices) != 1 {
		t.Errorf("devices %q, want one", j.Devices)
	}
}

// Hardware that passes its trial and fails with the real thing, twice at once: the processor
// takes over, until the next push, but not where the template wants the hardware.
func TestHardwareFails(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	film := clip(t, h264)
	for _, tt := range []struct {
		want policy.Encoder
		then string
	}{{policy.EncoderAuto, "libx264"}, {policy.EncoderNVENC, "h264_nvenc"}} {
		t.Run(tt.want.String(), func(t *testing.T) {
			t.Parallel()
			tpl := template(rung(func(r *policy.Rendition) { r.ShortSide = 90 }))
			tpl.Preset, tpl.Encoder = "ultrafast", tt.want // with which the fake hangs on libx264
			w := newWorldOf(t, ffmpeg.New(ffmpeg.Options{Path: self, Self: self, Log: slog.New(slog.DiscardHandler)}), Options{}, *tpl)
			w.quiet, w.pace.stall, w.dev = true, 20*time.Second, t.TempDir()
			for _, name := range []string{"nvidiactl", "nvidia0"} {
				if err := os.WriteFile(filepath.Join(w.dev, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Can(t.Context(), policy.EncoderNVENC, policy.VideoH264); err != nil {
				t.Fatal(err)
			}
			_, _, stop := w.live(t, key, film, stream.Push{})
			defer stop()
			until(t, 30*time.Second, "with "+tt.then, func() bool {
				st := w.Status()
				return len(st) == 1 && st[0].Restarts >= hardwareFailures && st[0].State == "running" && st[0].Outputs[0].Encoder == tt.then
			})
		})
	}
}
