package stream

import (
	"testing"
	"testing/synctest"

	"weir/internal/media/amf"
	"weir/internal/media/av"
	"weir/internal/policy"
)

// H95: few data messages are passed on, and all of them count against the
// limits of the publisher.
func TestDataFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxPacketRate: 100})
		p := publish(t, h, app(func(a *policy.App) { a.MaxLead = 0 }))
		data := av.Packet{Kind: av.Data, Tag: amf.Append(nil, "onTextData", "text")}
		n := 0
		for ; p.WritePacket(data) == nil; n++ {
		}
		if n != 1000 || p.Reason() != EndLimit {
			t.Errorf("ended after %d messages for %q, want 1000, over limit", n, p.Reason())
		}
		if in := h.Stats().PacketsIn; in > 10*maxDataRate+1 {
			t.Errorf("%d of %d messages were passed on", in, n)
		}
	})
}
