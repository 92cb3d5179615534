//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	small = "-f lavfi -i testsrc2=size=320x180:rate=25 "
	large = "-f lavfi -i testsrc2=size=640x360:rate=25 "
	noise = "-f lavfi -i anoisesrc=seed=1:amplitude=0.2:sample_rate=44100 "

	x264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -sc_threshold 0 -b:v 300k -maxrate 300k -bufsize 300k "
	aac  = "-c:a aac -b:a 64k -ac 2 "
)

// clips are the sources that scripts push, as $MEDIA/NAME. They are coded once
// and pushed as they are, so that what arrives can be compared with them. The
// sound is noise: no two of its frames are alike.
var clips = []struct{ name, inputs, codecs string }{
	{"av.flv", small + noise, x264 + "-bf 0 -g 25 " + aac},
	{"bframes.flv", small + noise, x264 + "-bf 3 -x264-params b-pyramid=normal -g 50 " + aac},
	{"large.flv", large + noise, x264 + "-bf 0 -g 25 " + aac},
	{"mp3.flv", small + noise, x264 + "-bf 0 -g 25 -c:a libmp3lame -ar 44100 -b:a 96k"},
	{"video.flv", small, x264 + "-bf 0 -g 25"},
	{"audio.flv", noise, aac},
	{"opus.mp4", small + noise, x264 + "-bf 0 -g 25 -c:a libopus -ar 48000 -ac 2 -b:a 64k"},
	{"hevc.mp4", small, "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:bframes=0:scenecut=0 -tag:v hvc1"},
}

// makeMedia writes the clips into dir, ten seconds of each.
func makeMedia(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range clips {
		args := strings.Fields("-nostdin -v error -y " + c.inputs + "-t 10 " + c.codecs)
		if _, err := output("ffmpeg", append(args, filepath.Join(dir, c.name))...); err != nil {
			return err
		}
	}
	hevc := filepath.Join(dir, "hevc.mp4")
	return errors.Join(
		asFLV(hevc, filepath.Join(dir, "hevc-12.flv"), legacyHEVC),
		asFLV(hevc, filepath.Join(dir, "hevc-hvc1.flv"), enhancedHEVC),
		asFLV(filepath.Join(dir, "opus.mp4"), filepath.Join(dir, "opus.flv"), legacyAVC),
	)
}

// output runs a program and returns what it prints.
func output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, stderr.Bytes())
	}
	return out, nil
}

// A tag is one FLV tag.
type tag struct {
	typ       byte // 8 audio, 9 video, 18 script
	timestamp uint32
	body      []byte
}

// isFrame reports whether t is a coded frame: neither script data, nor codec
// configuration, nor the end of a sequence.
func (t tag) isFrame() bool {
	switch {
	case len(t.body) < 2:
		return false
	case t.typ == 8 && t.body[0]>>4 == 10: // AAC
		return t.body[1] == 1
	case t.typ == 8:
		return true
	case t.typ == 9 && t.body[0]&0x80 != 0: // enhanced: coded frames, with or without composition time
		return t.body[0]&0xf == 1 || t.body[0]&0xf == 3
	case t.typ == 9:
		return t.body[1] == 1
	}
	return false
}

// readTags calls f with each tag of an FLV file. A tag that is cut short ends
// the file as io.ErrUnexpectedEOF.
//
// It stands apart from the server's own reader on purpose: the two judge each
// other.
func readTags(r io.Reader, f func(tag) error) error {
	br := bufio.NewReader(r)
	var header [11]byte
	if _, err := io.ReadFull(br, header[:9]); err != nil {
		return err
	}
	if !bytes.Equal(header[:4], []byte("FLV\x01")) {
		return fmt.Errorf("starts with %q, not with an FLV header", header[:4])
	}
	for {
		if _, err := io.ReadFull(br, header[:4]); err != nil { // the size of the previous tag
			return err
		}
		if _, err := io.ReadFull(br, header[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		t := tag{
			typ:       header[0],
			timestamp: uint32(header[7])<<24 | uint24(header[4:]),
			body:      make([]byte, uint24(header[1:])),
		}
		if _, err := io.ReadFull(br, t.body); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		if err := f(t); err != nil {
			return err
		}
	}
}

func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }

func appendUint24(b []byte, v uint32) []byte { return append(b, byte(v>>16), byte(v>>8), byte(v)) }

func appendTag(b []byte, t tag) []byte {
	b = append(b, t.typ)
	b = appendUint24(b, uint32(len(t.body)))
	b = appendUint24(b, t.timestamp&0xffffff)
	b = append(b, byte(t.timestamp>>24), 0, 0, 0)
	b = append(b, t.body...)
	n := uint32(11 + len(t.body))
	return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// legacyHEVC is the tag body that Chinese encoders send: codec id 12 in the
// place of AVC's 7.
func legacyHEVC(key, config bool, data []byte) []byte {
	body := []byte{2<<4 | 12, 1, 0, 0, 0}
	if key {
		body[0] = 1<<4 | 12
	}
	if config {
		body[1] = 0
	}
	return append(body, data...)
}

// enhancedHEVC is the tag body of Enhanced RTMP, "ExVideoTagHeader".
func enhancedHEVC(key, config bool, data []byte) []byte {
	body := []byte{0x80 | 2<<4 | 3, 'h', 'v', 'c', '1'} // PacketTypeCodedFramesX
	if key {
		body[0] = 0x80 | 1<<4 | 3
	}
	if config {
		body[0] = 0x80 | 1<<4 // PacketTypeSequenceStart
	}
	return append(body, data...)
}

// legacyAVC is the tag body of H.264 without B-frames.
func legacyAVC(key, config bool, data []byte) []byte {
	body := []byte{2<<4 | 7, 1, 0, 0, 0}
	if key {
		body[0] = 1<<4 | 7
	}
	if config {
		body[1] = 0
	}
	return append(body, data...)
}

// enhancedOpus is the tag body of Enhanced RTMP, "ExAudioTagHeader".
func enhancedOpus(config bool, data []byte) []byte {
	body := []byte{9<<4 | 1, 'O', 'p', 'u', 's'} // CodedFrames
	if config {
		body[0] = 9 << 4 // SequenceStart
	}
	return append(body, data...)
}

// asFLV writes an MP4 file, of video and perhaps Opus, as FLV, which this ffmpeg cannot.
func asFLV(mp4, flv string, video func(key, config bool, data []byte) []byte) error {
	file, err := os.ReadFile(mp4)
	if err != nil {
		return err
	}
	out, err := output("ffprobe", "-v", "error", "-of", "json", "-show_data",
		"-show_entries", "stream=codec_type,extradata:packet=codec_type,dts_time,size,pos,flags", mp4)
	if err != nil {
		return err
	}
	type from struct {
		Type string `json:"codec_type"`
	}
	var probe struct {
		Streams []struct {
			from
			Extradata string
		}
		Packets []struct {
			from
			DTS   string `json:"dts_time"`
			Size  string
			Pos   string
			Flags string
		}
	}
	if err := json.Unmarshal(out, &probe); err != nil {
		return err
	}
	b := append([]byte("FLV\x01\x05"), 0, 0, 0, 9, 0, 0, 0, 0)
	for _, s := range probe.Streams {
		config, err := dump(s.Extradata)
		if err != nil {
			return err
		}
		if s.Type == "video" {
			b = appendTag(b, tag{typ: 9, body: video(true, true, config)})
		} else {
			b = appendTag(b, tag{typ: 8, body: enhancedOpus(true, config)})
		}
	}
	begin := math.NaN() // of the sound, which in MP4 begins before what is to be heard of it
	for _, p := range probe.Packets {
		dts, err1 := strconv.ParseFloat(p.DTS, 64)
		pos, err2 := strconv.Atoi(p.Pos)
		size, err3 := strconv.Atoi(p.Size)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		if p.Type != "video" {
			if math.IsNaN(begin) {
				begin = dts
			}
			dts -= begin
		}
		t := tag{typ: 8, timestamp: uint32(dts*1000 + 0.5)}
		if data := file[pos : pos+size]; p.Type == "video" {
			t.typ, t.body = 9, video(strings.HasPrefix(p.Flags, "K"), false, data)
		} else {
			t.body = enhancedOpus(false, data)
		}
		b = appendTag(b, t)
	}
	return os.WriteFile(flv, b, 0o644)
}

// dump returns the bytes of ffprobe's hex dump:
// "00000000: 0101 6000 0000 0000 0000 0000 1ef0 00fc  ..`.............".
func dump(s string) ([]byte, error) {
	var all []byte
	for line := range strings.Lines(strings.TrimSpace(s)) {
		_, line, _ = strings.Cut(line, ": ")
		line, _, _ = strings.Cut(line, "  ")
		b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(line), " ", ""))
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return all, nil
}
