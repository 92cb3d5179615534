package record

import (
	"bytes"
	"testing"
)

// What a disk has after a power cut can be anything.
func FuzzJournal(f *testing.F) {
	head := `{"head":{"task":"a","space":"s","app":"live","stream":"x","start":"2000-01-01T00:00:00Z","record":{}}}` + "\n"
	f.Add([]byte(head + `{"begin":{"n":1}}` + "\n" + `{"segment":{"n":1,"size":5}}` + "\n" + `{"stored":1}` + "\n"))
	f.Add([]byte(head + `{"left":{"at":"2000-01-01T00:00:00Z"}}` + "\n" + `{"closed":{"reason":"cut"}}` + "\n" + `{"nam`))
	f.Add([]byte(head + `{"made":{"format":"hls","fact":{"type":"record.finished","data":{}}}}` + "\n" + `{"told":"hls"}` + "\n"))
	f.Add([]byte(`{"told":"hls"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		end := readEntries(data, func(*entry) { n++ })
		if end > len(data) || end > 0 && data[end-1] != '\n' || n != bytes.Count(data[:end], []byte("\n")) {
			t.Fatalf("%d entries end at %d of %d", n, end, len(data))
		}
	})
}

func FuzzWholePieces(f *testing.F) {
	table := append([]byte{syncByte, 0x40, 0}, make([]byte, packetSize-3)...)
	media := append([]byte{syncByte, 1, 0}, make([]byte, packetSize-3)...)
	f.Add(bytes.Join([][]byte{table, media, table, media}, nil))
	f.Add(bytes.Join([][]byte{table, media, table, media[:100]}, nil))
	f.Add(bytes.Join([][]byte{table, media, make([]byte, packetSize)}, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := wholePieces(data)
		if n > len(data) || n%packetSize != 0 {
			t.Fatalf("%d of %d bytes", n, len(data))
		}
		for at := 0; at < n; at += packetSize {
			if data[at] != syncByte {
				t.Fatalf("a packet at %d of %d is none", at, n)
			}
		}
	})
}

// A cut file keeps its whole pieces, and nothing of the last one.
func TestWholePieces(t *testing.T) {
	table := append([]byte{syncByte, 0x40, 0}, make([]byte, packetSize-3)...)
	media := append([]byte{syncByte, 1, 0}, make([]byte, packetSize-3)...)
	piece := bytes.Join([][]byte{table, media, media}, nil)
	two := append(bytes.Clone(piece), piece...)
	for _, c := range []struct{ n, want int }{{0, 0}, {100, 0}, {len(piece), len(piece)}, {len(piece) + 1, 0}, {len(two), len(two)}, {len(two) - 1, len(piece)}} {
		if got := wholePieces(two[:c.n]); got != c.want {
			t.Errorf("wholePieces of %d bytes = %d, want %d", c.n, got, c.want)
		}
	}
}
