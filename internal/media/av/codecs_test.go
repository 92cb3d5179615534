package av

import (
	"encoding/hex"
	"testing"
)

func TestCodecString(t *testing.T) {
	tests := []struct {
		codec  Codec
		config string
		want   string
	}{
		{H264, "0164001fffe100076764001facd9400100046 8efbcb0", "avc1.64001f"},
		{H264, "00", ""},
		{AAC, "1190", "mp4a.40.2"},
		{AAC, "", ""},
		{MP3, "", "mp4a.40.34"},
		{AV1, "81080c00", "av01.0.08M.08"},
		{AV1, "81284c00", "av01.1.08M.10"},
		{Unknown, "", ""},
	}
	for _, tt := range tests {
		config, err := hex.DecodeString(removeBlanks(tt.config))
		if err != nil {
			t.Fatal(err)
		}
		if got := CodecString(tt.codec, config); got != tt.want {
			t.Errorf("CodecString(%v, %s) = %q, want %q", tt.codec, tt.config, got, tt.want)
		}
	}
}

func removeBlanks(s string) string {
	b := []byte(nil)
	for i := range len(s) {
		if s[i] != ' ' {
			b = append(b, s[i])
		}
	}
	return string(b)
}
