package node

import (
	"reflect"
	"testing"

	"weir/internal/media/rtmp"
	"weir/internal/stream"
)

// numbered returns limits each of which has a value of its own, and these by
// the names of the fields.
func numbered() (Limits, map[string]int64) {
	var l Limits
	v, values := reflect.ValueOf(&l).Elem(), map[string]int64{}
	for i := range v.NumField() {
		n := int64(1000 + i)
		v.Field(i).SetInt(n)
		values[v.Type().Field(i).Name] = n
	}
	return l, values
}

// Each limit is the one that its setting says.
func TestLimitsReachTheirParts(t *testing.T) {
	l, values := numbered()
	cfg := DefaultConfig()
	cfg.Limits = l
	for _, part := range []struct {
		of   any
		from map[string]string // field of of: field of Limits
	}{
		{l.rtmp(), map[string]string{
			"Handshake": "Handshake", "Setup": "CommandWait", "Command": "CommandSize", "Data": "DataSize", "Audio": "AudioSize", "Video": "VideoSize",
			"ChunkSize": "ChunkSize", "ChunkStreams": "ChunkStreams", "Partial": "PartialSize", "MessageStreams": "MessageStreams",
			"AMFDepth": "AMFDepth", "AMFElements": "AMFValues", "Answers": "Answers", "Junk": "Junk",
		}},
		{cfg.hub(), map[string]string{
			"SlowAfter": "SlowTime", "SlowBytes": "SlowSize", "StuckAfter": "StuckTime", "GOPBytes": "GOPCache", "GOPTime": "GOPCacheTime",
			"MaxByteRate": "PublisherRate", "MaxPacketRate": "PublisherPackets",
		}},
	} {
		v := reflect.ValueOf(part.of)
		for field, from := range part.from {
			if got := v.FieldByName(field).Int(); got != values[from] {
				t.Errorf("%T.%s = %d, want limits.%s, %d", part.of, field, got, from, values[from])
			}
		}
		var others int // fields that no limit sets
		switch part.of.(type) {
		case rtmp.Limits:
			others = 1 // Write
		case stream.Options:
			others = 6 // Log, GatherCeiling, NoIOURing, ReaderBytes, Began, Ended
		}
		if n := v.NumField(); n != len(part.from)+others {
			t.Errorf("%T has %d fields; those that are limits belong into this test", part.of, n)
		}
	}
}
