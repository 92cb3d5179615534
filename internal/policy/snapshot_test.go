package policy

import (
	"strings"
	"testing"
	"time"
)

// H94: minimums and the like hold, however a policy comes.
func TestSnapshotProblems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Snapshot)
		want   string // in the only problem; empty: there is none
	}{
		"defaults": {func(s *Snapshot) {}, ""},
		"all": {func(s *Snapshot) {
			*s = Snapshot{true, time.Second, 16, 4096, 10, true, true, SnapshotHyphen, DefaultBucket, "a/b", "BEIJING", "https://example.com/x", SnapshotNew, time.Hour, nil}
		}, ""},
		"interval":      {func(s *Snapshot) { s.Interval = 999 * time.Millisecond }, "snapshot.interval: must be 1s to 1h0m0s"},
		"long interval": {func(s *Snapshot) { s.Interval = 61 * time.Minute }, "snapshot.interval"},
		"narrow":        {func(s *Snapshot) { s.Width = 15 }, "snapshot.width: must be 16 to 4096 pixels, or 0"},
		"high":          {func(s *Snapshot) { s.Height = 4097 }, "snapshot.height"},
		"quality 0":     {func(s *Snapshot) { s.Quality = 0 }, ""},
		"quality 11":    {func(s *Snapshot) { s.Quality = 11 }, ""},
		"bucket":        {func(s *Snapshot) { s.Bucket = "../b" }, "snapshot.bucket"},
		"no bucket":     {func(s *Snapshot) { s.Bucket = "b" }, "snapshot.bucket: there is no bucket \"b\""},
		"prefix":        {func(s *Snapshot) { s.Prefix = "a/../b" }, "snapshot.prefix"},
		"region":        {func(s *Snapshot) { s.Region = "a b" }, "snapshot.region"},
		"callback":      {func(s *Snapshot) { s.Callback = "http://127.0.0.1/" }, "snapshot.callback"},
		"keep_age":      {func(s *Snapshot) { s.KeepAge = time.Minute }, "snapshot.keep_age"},
		"check":         {func(s *Snapshot) { s.Enabled, s.Check = true, check("https://example.com/x") }, ""},
		"check of none": {func(s *Snapshot) { s.Check = check("https://example.com/x") }, "snapshot.check: is of no use"},
		"check nowhere": {func(s *Snapshot) { s.Enabled, s.Check = true, check("") }, "snapshot.check: url is missing"},
		"check inside":  {func(s *Snapshot) { s.Enabled, s.Check = true, check("http://169.254.169.254/") }, "snapshot.check.url"},
	} {
		set := Default()
		c.change(&set.Spaces[0].Apps[0].Snapshot)
		var got []string
		for _, p := range set.Problems() {
			got = append(got, p.Path+": "+p.Message)
		}
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s: problems %q, want one with %q", name, got, c.want)
		}
	}
}

// B.163: a quality out of its range is 5, and that is told.
func TestSnapshotQuality(t *testing.T) {
	for quality, want := range map[int]int{1: 1, 5: 5, 10: 10, 0: 5, -1: 5, 11: 5, 1 << 40: 5} {
		set := Default()
		s := &set.Spaces[0].Apps[0].Snapshot
		s.Quality = quality
		if got := s.QualityTaken(); got != want {
			t.Errorf("quality %d is taken for %d, want %d", quality, got, want)
		}
		said := strings.Join(set.Ignored(), "\n")
		if quality == want && said != "" || quality != want && !strings.HasPrefix(said, "spaces[0].apps[0].snapshot.quality is not 1 to 10") {
			t.Errorf("of the quality %d is said %q", quality, said)
		}
	}
}

func check(url Endpoint) *SnapshotCheck {
	var c SnapshotCheck
	c.SetDefaults()
	c.URL = url
	return &c
}
