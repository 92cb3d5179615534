// Package rtmp is RTMP in both roles: handshake, chunks, messages, commands.
//
// The layers are those of Adobe's "Real Time Messaging Protocol 1.0" (section
// numbers in this package are its): a connection begins with a handshake (5.2);
// then it carries messages, cut into chunks (5.3) so that a large one does
// not hold up a small one; some messages are about the connection itself (5.4,
// 7.1.7), some are commands (7.2), and the rest is media: bodies of FLV tags.
// Enhanced RTMP v2 adds codecs, which are package flv's, and a few properties
// of connect.
//
// A [Conn] runs all of that but for the two questions that a server has to ask
// itself, may this client publish, may it play: [Conn.ReadCommand] returns
// with them, and the caller answers with AcceptPublish, RejectPublish,
// AcceptPlay or RejectPlay. A publisher is then an av.Reader. To a player the
// server writes ready-made chunks, made with [AppendMessage], past the Conn.
//
// The other end of a Conn is a stranger in both roles. Every length, count and
// rate has a limit, see [Limits]; whoever passes one is a protocol error, and
// the connection is over.
package rtmp

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"math"
	"time"
)

// Types of messages (5.4, 7.1).
const (
	typeSetChunkSize     = 1
	typeAbort            = 2
	typeAck              = 3
	typeUserControl      = 4
	typeWindowAckSize    = 5
	typeSetPeerBandwidth = 6
	TypeAudio            = 8
	TypeVideo            = 9
	typeDataAMF3         = 15
	typeCommandAMF3      = 17
	TypeData             = 18
	TypeCommand          = 20
	typeAggregate        = 22
)

// Chunk streams that we send on. The specification reserves 2 for control;
// the others are a habit.
const (
	ChunkControl = 2
	ChunkCommand = 3
	ChunkAudio   = 4
	ChunkData    = 5
	ChunkVideo   = 6
)

// Limits is what the other end may do; a zero field stands for its default.
type Limits struct {
	Handshake time.Duration // from the first byte awaited to the end of the handshake; 10 s
	Setup     time.Duration // from there to publish or play; 10 s
	Write     time.Duration // for one write of the Conn's own; 10 s

	// Largest messages, in bytes. What is larger is refused before its body.
	Command int // 64 KiB
	Data    int // and what has no other limit; 256 KiB
	Audio   int // 1 MiB
	Video   int // and aggregates; 8 MiB

	ChunkSize      int // largest size of a chunk, to which larger ones are cut as 5.4.1 allows; 0xFFFFFF
	ChunkStreams   int // with an unfinished message; 64
	Partial        int // bytes of unfinished messages; 16 MiB
	MessageStreams int // that createStream makes, 64 at most; 16
	AMFDepth       int // 16
	AMFElements    int // 1024
	Answers        int // commands, and pings, in a second; twice as many at once; 100
	Junk           int // messages of no use in a second, and as many at once; more are read slowly; 10000
}

// DefaultLimits returns the defaults.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	l.Handshake = cmp.Or(l.Handshake, 10*time.Second)
	l.Setup = cmp.Or(l.Setup, 10*time.Second)
	l.Write = cmp.Or(l.Write, 10*time.Second)
	l.Command = cmp.Or(l.Command, 64<<10)
	l.Data = cmp.Or(l.Data, 256<<10)
	l.Audio = cmp.Or(l.Audio, 1<<20)
	l.Video = cmp.Or(l.Video, 8<<20)
	l.ChunkSize = cmp.Or(l.ChunkSize, maxChunkSize)
	l.ChunkStreams = cmp.Or(l.ChunkStreams, 64)
	l.Partial = cmp.Or(l.Partial, 16<<20)
	l.MessageStreams = cmp.Or(l.MessageStreams, 16)
	l.AMFDepth = cmp.Or(l.AMFDepth, 16)
	l.AMFElements = cmp.Or(l.AMFElements, 1024)
	l.Answers = cmp.Or(l.Answers, 100)
	l.Junk = cmp.Or(l.Junk, 10_000)
	return l
}

// message returns the largest length of a message of type typ.
func (l *Limits) message(typ byte) int {
	switch typ {
	case TypeVideo, typeAggregate:
		return l.Video
	case TypeAudio:
		return l.Audio
	case TypeCommand, typeCommandAMF3:
		return l.Command
	case typeSetChunkSize, typeAbort, typeAck, typeUserControl, typeWindowAckSize, typeSetPeerBandwidth:
		return 64
	}
	return l.Data
}

// Config is the options of a Conn; a zero field, or one out of range, stands
// for its default.
type Config struct {
	Limits        Limits
	ChunkSize     int          // of what we send, 1 to 0xFFFFFF; 60000
	WindowAckSize int          // bytes after which the other end acknowledges; 2500000
	Digest        bool         // client: handshake with a digest, as Flash Player 9 does
	TLS           *tls.Config  // client, rtmps; nil: the system's
	Log           *slog.Logger // what is odd but harmless, at level debug; nil: nowhere
}

func (c Config) withDefaults() Config {
	c.Limits = c.Limits.withDefaults()
	if c.ChunkSize <= 0 || c.ChunkSize > maxChunkSize {
		c.ChunkSize = 60000
	}
	if c.WindowAckSize <= 0 || c.WindowAckSize > math.MaxUint32 {
		c.WindowAckSize = 2500000
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return c
}
