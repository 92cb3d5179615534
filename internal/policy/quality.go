package policy

import "time"

// Quality is when the owner of a stream wants to hear that its publisher does
// badly. A limit that is 0 is off.
type Quality struct {
	NoData     time.Duration `yaml:"no_data"`      // nothing has come for so long
	NoKeyFrame time.Duration `yaml:"no_key_frame"` // no key frame has come for so long
	LowBitRate int           `yaml:"low_bit_rate"` // the bit rate is below so many per cent of its own median
	Drift      time.Duration `yaml:"drift"`        // sound and picture have come apart by so much since the push began
	Jumps      int           `yaml:"jumps"`        // the publisher's clock jumps so often in a minute
}

// SetDefaults gives q the settings of an app that says nothing else.
func (q *Quality) SetDefaults() {
	*q = Quality{
		NoData:     5 * time.Second,
		NoKeyFrame: 15 * time.Second,
		LowBitRate: 25,
		Drift:      500 * time.Millisecond,
		Jumps:      10,
	}
}

// quality checks the limits of an app's alerts.
func (c *checker) quality(path string, q *Quality) {
	for _, l := range []struct {
		name        string
		value       time.Duration
		least, most time.Duration
	}{
		{"no_data", q.NoData, time.Second, time.Hour},
		{"no_key_frame", q.NoKeyFrame, time.Second, time.Hour},
		{"drift", q.Drift, 50 * time.Millisecond, 30 * time.Second},
	} {
		if l.value != 0 && (l.value < l.least || l.value > l.most) {
			c.add(path+"."+l.name, "must be %v to %v, or 0s for never, not %v", l.least, l.most, l.value)
		}
	}
	if q.LowBitRate < 0 || q.LowBitRate > 90 {
		c.add(path+".low_bit_rate", "must be 1 to 90 per cent, or 0 for never, not %d", q.LowBitRate)
	}
	if q.Jumps < 0 || q.Jumps > 10_000 {
		c.add(path+".jumps", "must be 1 to 10000 a minute, or 0 for never, not %d", q.Jumps)
	}
}
