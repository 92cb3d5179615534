package node

import (
	"cmp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"weir/internal/access"
	"weir/internal/callback"
	"weir/internal/eventlog"
	"weir/internal/session"
	"weir/internal/stream"
)

// newMetrics returns what /metrics shows of n. No label holds the name of a
// stream or a client, so their number does not grow, but for the metrics of
// single streams, which are bounded by a setting and off unless it is set.
func newMetrics(n *Node) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{n})
	return r
}

// collector turns the accounts that the parts keep into metrics when they are
// asked for.
type collector struct{ n *Node }

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	metric := func(t prometheus.ValueType, name, help string, v float64, labels ...string) {
		var names, values []string
		for i := 0; i < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("weir_"+name, help, names, nil), t, v, values...)
	}
	gauge := func(name, help string, v float64, labels ...string) {
		metric(prometheus.GaugeValue, name, help, v, labels...)
	}
	counter := func(name, help string, v int64, labels ...string) {
		metric(prometheus.CounterValue, name, help, float64(v), labels...)
	}

	var unsigned, late int64
	if c.n.peers != nil {
		unsigned, late = c.n.peers.Dropped()
	}
	for reason, n := range map[string]int64{"unsigned": unsigned, "late": late} {
		counter("peer_messages_dropped_total", "Messages in the name of other nodes that were dropped.", n, "reason", reason)
	}

	hub := c.n.hub.Stats()
	gauge("streams", "Streams, those that wait for their publisher to return included.", float64(hub.Streams))
	gauge("publishers", "Clients that publish.", float64(hub.Publishers))
	counter("received_bytes_total", "Bytes of media from publishers.", hub.BytesIn)
	counter("received_packets_total", "Packets of media from publishers.", hub.PacketsIn)
	counter("sent_bytes_total", "Bytes of media to RTMP and FLV players.", hub.BytesOut)
	counter("sent_writes_total", "Writes to RTMP and FLV players.", hub.Writes)
	counter("player_jumps_total", "Jumps of slow players to the newest key frame.", hub.Jumps)
	counter("player_dropped_frames_total", "Frames that slow players did not get because they jumped.", hub.JumpedFrames)
	counter("player_dropped_bytes_total", "Bytes that slow players did not get because they jumped.", hub.JumpedBytes)
	counter("player_stuck_total", "Players disconnected because they took nothing.", hub.Stuck)
	counter("reader_jumps_total", "Jumps of packagers and the like to a newer key frame.", hub.ReaderJumps)
	gauge("feed_gather_seconds", "How long bytes for players gather before they are written.", hub.Gather.Seconds())
	joins := make(map[float64]uint64, len(stream.JoinBuckets))
	for i, bound := range stream.JoinBuckets {
		joins[bound.Seconds()] = uint64(hub.Join[i])
	}
	ch <- prometheus.MustNewConstHistogram(
		prometheus.NewDesc("weir_player_join_seconds", "Time from a player's request to the end of its first frame.", nil, nil),
		uint64(hub.Join[len(stream.JoinBuckets)]), hub.JoinSum.Seconds(), joins)

	sessions, hls := c.n.sessions.Stats(), c.n.hls.Stats()
	players := map[string]int{access.RTMP: 0, access.RTMPS: 0, access.FLV: 0, access.WSFLV: 0, access.HLS: hls.Players}
	for kind, count := range sessions.Active {
		if kind.Op == access.Play {
			players[kind.Protocol] += count
		}
	}
	for protocol, count := range players {
		gauge("players", "Clients that play; those of HLS, who come and go, are estimated.", float64(count), "protocol", protocol)
	}
	for kind, count := range sessions.Started {
		counter("sessions_total", "Sessions that began.", count, "op", kind.Op.String(), "protocol", kind.Protocol)
	}
	refused := sessions.Refused
	for reason, count := range hls.Refused {
		refused[session.Refusal{Op: access.Play, Reason: reason}] += count
	}
	for refusal, count := range refused {
		counter("refused_total", "Requests that were refused.", count, "op", refusal.Op.String(), "reason", string(refusal.Reason))
	}
	alerts := c.n.quality.Stats()
	for alert, count := range alerts.Raised {
		gauge("alerts", "Alerts that are raised.", float64(count), "alert", alert)
		counter("alerts_total", "Alerts that were raised.", alerts.Ever[alert], "alert", alert)
	}
	book := c.n.stats.Health()
	gauge("statistics_waiting_bytes", "Bytes of statistics that wait for NATS.", float64(book.Waiting))
	counter("statistics_dropped_total", "Messages of statistics that have waited for too long.", book.Dropped)
	gauge("hls_streams", "Streams that have, or lately had, HLS players.", float64(hls.Channels))
	gauge("hls_segment_bytes", "Bytes of HLS segments in memory.", float64(hls.Held))
	gauge("hls_segment_limit_bytes", "Bytes that HLS segments may take.", float64(hls.Most))
	counter("hls_playlists_total", "HLS playlists served.", hls.Playlists)
	counter("hls_segments_total", "HLS segments served.", hls.Segments)
	gauge("hls_viewers", "HLS players that can be told apart by address and User-Agent.", float64(hls.Viewers))
	counter("hls_viewers_untold_total", "Requests served to HLS players beyond those of whose stay there is an account.", hls.Untold)
	counter("hls_sent_bytes_total", "Bytes of HLS playlists and segments served.", hls.BytesOut)
	rec := c.n.recorder.Stats()
	gauge("recordings", "Streams that are being recorded.", float64(rec.Recording))
	gauge("record_unfinished", "Recordings that are being made, uploaded or finished.", float64(rec.Takes))
	gauge("record_spool_bytes", "Bytes of segments on the disk.", float64(rec.SpoolBytes))
	gauge("record_spool_limit_bytes", "What they may be.", float64(rec.SpoolLimit))
	counter("record_uploads_total", "Segments uploaded.", rec.Uploads)
	counter("record_uploaded_bytes_total", "Bytes of segments uploaded.", rec.UploadBytes)
	counter("record_upload_errors_total", "Attempts to reach a bucket that failed.", rec.UploadErrors)
	counter("record_files_total", "Files of recordings.", rec.Finished, "outcome", "finished")
	counter("record_files_total", "Files of recordings.", rec.Failed, "outcome", "failed")
	gauge("clips_unfinished", "Clips that are being made, or that could not be made in the last day.", float64(rec.ClipsWanted))
	counter("clips_total", "Clips of recordings.", rec.Clips, "outcome", "finished")
	counter("clips_total", "Clips of recordings.", rec.ClipsFailed, "outcome", "failed")
	counter("record_stops_total", "Times that a recording stopped for want of room.", rec.Stops)
	pictures, tool := c.n.snapshots.Stats(), c.n.ffmpeg.Health()
	counter("snapshots_taken_total", "Pictures taken of streams.", pictures.Taken)
	counter("snapshots_failed_total", "Pictures that were due and could not be taken, those dropped included.", pictures.Failed)
	counter("snapshots_dropped_total", "Pictures dropped because there was no time for them.", pictures.Shed)
	counter("snapshots_bytes_total", "Bytes of pictures taken.", pictures.Bytes)
	gauge("snapshots_running", "Pictures being made.", float64(pictures.Running))
	gauge("snapshots_waiting", "Pictures that wait for their turn.", float64(pictures.Waiting))
	gauge("snapshots_held_bytes", "Bytes of newest pictures in memory.", float64(pictures.Held))
	metric(prometheus.CounterValue, "snapshots_cpu_seconds_total", "CPU time of the ffmpeg of pictures.", pictures.CPU.Seconds())
	gauge("ffmpeg_processes", "Processes of ffmpeg that run.", float64(tool.Running))
	counter("ffmpeg_started_total", "Jobs that ffmpeg was given.", tool.Started)
	counter("ffmpeg_failed_total", "Jobs of ffmpeg that failed.", tool.Failed)
	metric(prometheus.CounterValue, "ffmpeg_cpu_seconds_total", "CPU time of ffmpeg.", tool.CPU.Seconds())
	renditions := c.n.transcoder.Stats()
	for state, count := range renditions.States {
		gauge("transcodes", "Streams with templates, by how their renditions fare.", float64(count), "state", state)
	}
	gauge("transcode_speed", "Speed of the slowest rendition, of all streams; 1 is real time, 0 is not known.", renditions.Slowest)
	counter("transcode_restarts_total", "Times that ffmpeg was started again because it had failed.", renditions.Restarts)
	counter("transcode_frames_total", "Pictures and sounds of renditions.", renditions.Frames)
	counter("transcode_dropped_frames_total", "Pictures that were left out of renditions to keep their frame rate.", renditions.Dropped)
	counter("transcode_shed_total", "Renditions that were given up because the machine could not keep up.", renditions.Shed)
	counter("connections_refused_total", "Connections of addresses that had too many.", c.n.conns.refused.Load())
	c.events(ch, gauge, counter)
	c.callbacks(ch, gauge, counter)
	counter("publishers_early_total", "Publishers that were let go on before the fact of their beginning was durable.", sessions.Early)
	counter("rtmp_unfit_total", "RTMP connections that failed before they asked for anything.", sessions.Unfit)
	counter("panics_recovered_total", "Panics that ended a connection, a player, a stream's packaging or the like, and nothing else.", sessions.Panics+hls.Panics+hub.Panics+c.n.panics.Load())

	streams, more := c.streams()
	gauge("streams_without_metrics", "Streams that have no metrics of their own because there are too many, or nobody wants them.", float64(more))
	for _, s := range streams {
		i := s.Info()
		own := []string{"space", i.Key.Space, "app", i.Key.App, "stream", i.Key.Name}
		out := int64(0)
		for _, n := range i.Traffic.Out {
			out += n
		}
		counter("stream_received_bytes_total", "Bytes of media from the stream's publishers.", i.Bytes, own...)
		counter("stream_sent_bytes_total", "Bytes to the stream's players.", out, own...)
		counter("stream_timestamp_jumps_total", "Jumps of the publishers' clocks.", i.Jumps, own...)
		gauge("stream_bit_rate", "Bits a second from the publisher.", float64(i.BitRate), own...)
		gauge("stream_frame_rate", "Video frames a second from the publisher.", i.Video.Measured, own...)
		gauge("stream_key_frame_interval_seconds", "Time between the two newest key frames.", i.Video.KeyInterval.Seconds(), own...)
		gauge("stream_drift_seconds", "How far sound has come to be ahead of picture.", i.Drift.Seconds(), own...)
		gauge("stream_players", "Clients that play the stream.", float64(i.Players), own...)
	}
}

// streams returns the streams that have metrics of their own: those that have
// been on the air for longest, as many as the configuration says. The number of
// the others is more.
func (c *collector) streams() (list []*stream.Stream, more int) {
	list = c.n.hub.Streams()
	limit := c.n.cfg.Metrics.Streams
	if len(list) > limit {
		more = len(list) - limit
		slices.SortFunc(list, func(a, b *stream.Stream) int {
			return cmp.Or(a.Start().Compare(b.Start()), strings.Compare(a.Key().String(), b.Key().String()))
		})
		list = list[:limit]
	}
	return list, more
}

// events adds what the event log has done.
func (c *collector) events(ch chan<- prometheus.Metric,
	gauge func(name, help string, v float64, labels ...string), counter func(name, help string, v int64, labels ...string)) {
	st, h := c.n.events.Stats(), c.n.events.Health()
	degraded := 0.0
	if h.Degraded {
		degraded = 1
	}
	for t, n := range st.Emitted {
		counter("facts_total", "Facts taken into the event log.", n, "type", string(t))
	}
	for t, n := range st.Omitted {
		counter("facts_omitted_total", "Facts left out of the event log.", n, "type", string(t))
	}
	counter("facts_unsendable_total", "Facts in the journal that could not be sent to NATS.", st.Lost)
	counter("event_log_missed_total", "Facts, or batches of them, that were too old to be kept when a reader wanted them.", st.Gaps)
	gauge("event_log_degraded", "1 while NATS is away, the journal is full, or the disk takes nothing.", degraded)
	gauge("event_log_waiting", "Facts, or batches of them, that wait in the journal for NATS.", float64(h.Waiting))
	gauge("event_log_away_seconds", "For how long NATS has been away.", h.Lag.Seconds())
	gauge("event_log_journal_bytes", "Bytes of the journal on disk.", float64(h.JournalBytes))
	gauge("event_log_queue_bytes", "Bytes of facts that wait in memory for the disk.", float64(h.QueueBytes))
	buckets := make(map[float64]uint64, len(eventlog.LatencyBuckets))
	for i, bound := range eventlog.LatencyBuckets {
		buckets[bound.Seconds()] = uint64(st.Latency[i])
	}
	ch <- prometheus.MustNewConstHistogram(
		prometheus.NewDesc("weir_event_log_append_seconds", "Time until a fact was durable in the journal.", nil, nil),
		uint64(st.Latency[len(eventlog.LatencyBuckets)]), st.LatencySum.Seconds(), buckets)
}

// callbacks adds what owners were told.
func (c *collector) callbacks(ch chan<- prometheus.Metric,
	gauge func(name, help string, v float64, labels ...string), counter func(name, help string, v int64, labels ...string)) {
	st := c.n.callbacks.Stats()
	counter("callbacks_delivered_total", "Calls of receivers of callbacks that succeeded.", st.Delivered)
	counter("callbacks_failed_total", "Calls of receivers of callbacks that failed.", st.Failed)
	counter("callbacks_dead_total", "Callbacks that became dead letters.", st.Dead)
	counter("callbacks_missed_total", "Facts, at most, that were deleted from the event log before their receivers were told.", st.Missed)
	gauge("callback_receivers", "Receivers of callbacks.", float64(st.Receivers-st.Failing-st.Behind), "state", "ok")
	gauge("callback_receivers", "Receivers of callbacks.", float64(st.Failing), "state", "failing")
	gauge("callback_receivers", "Receivers of callbacks.", float64(st.Behind), "state", "behind")
	gauge("callback_streams_waiting", "Streams that wait because a callback of theirs failed.", float64(st.Parked))
	gauge("callbacks_held", "Callbacks in memory.", float64(st.Held))
	gauge("callback_calls", "Calls of receivers under way.", float64(st.Calls))
	gauge("callbacks_oldest_seconds", "Age of the oldest fact that waits to be told.", st.Oldest.Seconds())
	buckets := make(map[float64]uint64, len(callback.Buckets))
	for i, bound := range callback.Buckets {
		buckets[bound.Seconds()] = uint64(st.Latency[i])
	}
	ch <- prometheus.MustNewConstHistogram(
		prometheus.NewDesc("weir_callback_seconds", "Time that calls of receivers took.", nil, nil),
		uint64(st.Latency[len(callback.Buckets)]), st.LatencySum.Seconds(), buckets)
}
