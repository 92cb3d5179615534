package rtmp

import "weir/internal/media/amf"

// Connect is what a client says of itself in the command connect (7.2.1.1), as
// it was sent. What the client left out is empty.
type Connect struct {
	App, TcURL, FlashVer, SwfURL, PageURL string
	ObjectEncoding                        float64

	// Enhanced RTMP v2, "Enhancing NetConnection connect command".
	FourCcList   []string   // codecs; "*" is any
	VideoFourCcs amf.Object // codec to capabilities, capDecode …
	AudioFourCcs amf.Object
	CapsEx       float64 // capModEx …
}

// Capabilities of Enhanced RTMP v2: FourCcInfoMask and CapsExMask.
const (
	capForward = 4
	capModEx   = 4
)

func parseConnect(o amf.Object) Connect {
	c := Connect{
		App:            o.String("app"),
		TcURL:          o.String("tcUrl"),
		FlashVer:       o.String("flashVer"),
		SwfURL:         o.String("swfUrl"),
		PageURL:        o.String("pageUrl"),
		ObjectEncoding: o.Number("objectEncoding"),
		VideoFourCcs:   amf.Properties(o.Get("videoFourCcInfoMap")),
		AudioFourCcs:   amf.Properties(o.Get("audioFourCcInfoMap")),
		CapsEx:         o.Number("capsEx"),
	}
	list, _ := o.Get("fourCcList").([]amf.Value)
	for _, v := range list {
		if s, ok := v.(string); ok {
			c.FourCcList = append(c.FourCcList, s)
		}
	}
	return c
}

// enhanced reports whether the client speaks Enhanced RTMP.
func (c *Connect) enhanced() bool {
	return c.FourCcList != nil || c.VideoFourCcs != nil || c.AudioFourCcs != nil || c.CapsEx != 0
}

// capabilities are ours, in either role: we forward what package flv knows.
func capabilities() amf.Object {
	video := []string{"avc1", "hvc1", "av01", "vp09", "vp08"}
	audio := []string{"mp4a", ".mp3", "Opus", "fLaC", "ac-3", "ec-3"}
	var list []amf.Value
	info := func(codecs []string) amf.Object {
		var o amf.Object
		for _, c := range codecs {
			o = append(o, amf.Property{Name: c, Value: capForward})
			list = append(list, c)
		}
		return o
	}
	v, a := info(video), info(audio)
	return amf.Object{
		{Name: "fourCcList", Value: list},
		{Name: "videoFourCcInfoMap", Value: v},
		{Name: "audioFourCcInfoMap", Value: a},
		{Name: "capsEx", Value: capModEx},
	}
}
