package transcode

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
	film := &media{video: av.H264, width: 1280, height: 720, rate: rate{30, 1}}
	for _, tt := range []struct {
		kind    policy.Encoder
		devices string
		args    []string // in this order
	}{
		{policy.EncoderCPU, "[]", []string{"-c:v libx264", "-c:v libx264"}},
		{policy.EncoderVAAPI, "[dri/renderD129]", []string{"-init_hw_device vaapi=hw:DEV/dri/renderD129 -filter_hw_device hw", "format=pix_fmts=nv12,hwupload[out0]", "-c:v h264_vaapi"}},
		{policy.EncoderQSV, "[dri/renderD129]", []string{"-init_hw_device qsv=hw,child_device=DEV/dri/renderD129", "format=pix_fmts=nv12[out0]", "-c:v h264_qsv"}},
		{policy.EncoderNVENC, "[nvidia0 nvidia1 nvidiactl nvidia-uvm]", []string{"-c:v h264_nvenc", "-bf:v 0 -forced-idr:v 1 -no-scenecut:v 1"}},
	} {
		outs := plan("s1", film, []*policy.Transcode{template(
			rung(func(r *policy.Rendition) { r.ShortSide = 360 }),
			rung(func(r *policy.Rendition) { r.Suffix, r.ShortSide = "_b", 180 }),
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
