package rtmp

import (
	"errors"
	"fmt"
	"math"

	"weir/internal/media/amf"
)

// Command is a command of the other end (7.2).
type Command struct {
	Name        string
	Transaction float64 // 0: no answer is expected
	StreamID    uint32  // the message stream that it came on; of deleteStream the one that is meant
	StreamName  string  // publish, play, FCUnpublish: as sent, with a query if there is one
	Type        string  // publish: live, record or append
	Bool        bool    // pause, receiveAudio, receiveVideo: on or off
	Args        []any   // what follows the command object

	object amf.Object
}

var errCommand = errors.New("not a command")

// command decodes a command message. One of type 17 may switch to AMF3 value
// by value (AMF0, 3.1) behind a first byte; all that clients do there is AMF0.
func (c *Conn) command(m message) (Command, error) {
	b := m.body
	if m.typ == typeCommandAMF3 && len(b) > 0 {
		b = b[1:]
	}
	lim := &c.cfg.Limits
	vals, err := amf.Limits{Depth: lim.AMFDepth, Elements: lim.AMFElements}.Decode(b)
	// A command can do without an argument that is of no type we know.
	if err != nil && (len(vals) < 3 || !errors.Is(err, amf.ErrAMF3) && !errors.Is(err, amf.ErrMarker)) {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	cmd := Command{StreamID: m.streamID}
	for i, v := range vals {
		switch i {
		case 0:
			name, ok := v.(string)
			if !ok {
				return Command{}, errCommand
			}
			cmd.Name = name
		case 1:
			cmd.Transaction, _ = v.(float64)
		case 2:
			cmd.object = amf.Properties(v)
		case 3:
			cmd.Args = vals[3:]
		}
	}
	if cmd.Name == "" {
		return Command{}, errCommand
	}
	switch cmd.Name {
	case "publish", "play":
		if on, ok := cmd.arg(0).(bool); ok && !on { // NetStream.play(false) stops
			cmd.Name = "closeStream"
		}
		cmd.StreamName, _ = cmd.arg(0).(string)
		cmd.Type, _ = cmd.arg(1).(string)
	case "FCUnpublish":
		cmd.StreamName, _ = cmd.arg(0).(string)
	case "pause", "receiveAudio", "receiveVideo":
		cmd.Bool, _ = cmd.arg(0).(bool)
	case "deleteStream":
		if id, ok := cmd.arg(0).(float64); ok && id >= 0 && id <= math.MaxUint32 {
			cmd.StreamID = uint32(id)
		}
	}
	return cmd, nil
}

// arg returns an argument, nil if there is none.
func (cmd *Command) arg(i int) any {
	if i < len(cmd.Args) {
		return cmd.Args[i]
	}
	return nil
}

// cut shortens what the other end sent to what fits into a log line.
func cut(s string) string {
	const most = 200
	return s[:min(len(s), most)]
}

// appendCommand appends a command message of the given values.
func (c *Conn) appendCommand(dst []byte, csid, streamID uint32, vals ...any) []byte {
	return AppendMessage(dst, c.cfg.ChunkSize, csid, TypeCommand, 0, streamID, amf.Append(nil, vals...))
}

// AppendStatus appends an onStatus message (7.2.2) in chunks of ChunkSize.
// The level is "status", "warning" or "error". Any goroutine may call it.
func (c *Conn) AppendStatus(dst []byte, streamID uint32, level, netStatus, description string) []byte {
	return c.appendCommand(dst, ChunkData, streamID, "onStatus", 0, nil, info(level, netStatus, description))
}

// info is the object that tells how a command went.
func info(level, code, description string) amf.Object {
	return amf.Object{
		{Name: "level", Value: level},
		{Name: "code", Value: code},
		{Name: "description", Value: description},
	}
}
