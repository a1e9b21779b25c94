//! Counters per core, and what `/v0/metrics` and `/v0/ready` make of them (§11). Each core counts for
//! itself; a request for metrics asks every core for a report and adds them up.

use crate::caps::Caps;
use crate::fault::{Code, Fault};
use crate::handlers::topics::class_name;
use crate::http::json_out::{write_f64, write_str, write_u64};
use crate::mesh;
use crate::service::PumpStats;
use runelog_engine::cache::CacheStats;
use runelog_engine::config::Class;
use runelog_engine::shard::{QueueCounts, Shard, ShardGauges};
use runelog_engine::wal::log::{FSYNC_BOUNDS_US, LogStats};

/// Topics with series of their own at most (H-6).
const TOPIC_SERIES_MAX: usize = 1000;
/// Statuses that are counted apart.
const STATUSES: [u16; 17] =
    [200, 201, 400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 429, 431, 500, 503];

/// Counters of one core's network side. All since start.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoreCounters {
    pub(crate) requests: u64,
    pub(crate) forwarded: u64,
    pub(crate) mesh_full: u64,
    pub(crate) cold_reads: u64,
    pub(crate) connections: u64,
    pub(crate) polls: u64,
    pub(crate) ring_enters: u64,
    answered: [u64; STATUSES.len()],
    refused: [u64; Code::ALL.len()],
}

impl CoreCounters {
    /// A refusal was written.
    pub(crate) fn count_fault(&mut self, fault: &Fault) {
        self.count_status(fault.status());
        self.count_refusal(fault);
    }

    /// Something was refused that is not answered with a status.
    pub(crate) fn count_refusal(&mut self, fault: &Fault) {
        self.refused[fault.code() as usize] += 1;
    }

    /// An answer of this status was written.
    pub(crate) fn count_status(&mut self, status: u16) {
        if let Some(at) = STATUSES.iter().position(|other| *other == status) {
            self.answered[at] += 1;
        }
    }
}

struct TopicSeries {
    name: Box<[u8]>,
    head: u64,
    earliest: u64,
    records: u64,
    bytes: u64,
    queue: Option<QueueCounts>,
}

/// What one core says of itself.
pub(crate) struct ShardReport {
    shard: u16,
    gauges: ShardGauges,
    log: LogStats,
    depth: u64,
    in_flight: u64,
    read_only: bool,
    cache: CacheStats,
    topics: Vec<TopicSeries>,
    topic_count: u64,
    counters: CoreCounters,
    mesh: mesh::Counters,
    /// Of the whole server.
    streams: u64,
    /// Of the whole server.
    sessions: u64,
    routers: RouterReport,
}

/// What a core says of routers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouterReport {
    /// All of the server, from the core that knows them.
    pub(crate) routers: u64,
    /// Of this core's sources: those whose dest takes nothing.
    pub(crate) stalled: u64,
    pub(crate) pumps: PumpStats,
}

impl ShardReport {
    /// Looks at everything once.
    pub(crate) fn take(
        shard: &mut Shard,
        counters: &CoreCounters,
        mesh: mesh::Counters,
        caps: &Caps,
        routers: RouterReport,
    ) -> ShardReport {
        let mut topics = Vec::new();
        shard.visit_topics(TOPIC_SERIES_MAX + 1, |view| {
            topics.push(TopicSeries {
                name: view.name.into(),
                head: view.totals.head,
                earliest: view.earliest,
                records: view.totals.count,
                bytes: view.totals.bytes,
                queue: view.queue,
            });
        });
        ShardReport {
            shard: shard.settings().shard,
            gauges: shard.gauges(),
            log: shard.log.stats.clone(),
            depth: shard.log.depth() as u64,
            in_flight: shard.log.in_flight() as u64,
            read_only: shard.log.failed().is_some(),
            cache: shard.cache_stats(),
            topics,
            topic_count: shard.topic_count() as u64,
            counters: counters.clone(),
            mesh,
            streams: caps.streams(),
            sessions: caps.sessions(),
            routers,
        }
    }
}

/// H-2. A core whose log failed still reads, but the server is not ready for writes: said in a member.
pub(crate) fn render_ready(out: &mut Vec<u8>, reports: &[ShardReport]) {
    out.extend_from_slice(b"{\"status\":\"ready\",\"wal_replay_complete\":true,\"topics\":");
    write_u64(out, sum(reports, |report| report.topic_count));
    if reports.iter().any(|report| report.read_only) {
        out.extend_from_slice(b",\"wal_read_only\":true");
    }
    out.push(b'}');
}

fn sum(reports: &[ShardReport], of: impl Fn(&ShardReport) -> u64) -> u64 {
    reports.iter().map(of).sum()
}

/// What every report says of the whole server; they were made at slightly different moments.
fn shared(reports: &[ShardReport], of: impl Fn(&ShardReport) -> u64) -> u64 {
    reports.first().map_or(0, of)
}

fn class_sum(reports: &[ShardReport], class: Class) -> u64 {
    sum(reports, |report| report.gauges.by_class[class as usize])
}

const CLASSES: [Class; 4] = [Class::Ephemeral, Class::Memory, Class::Disk, Class::Fsync];

/// The JSON form (H-7).
pub(crate) fn render_json(out: &mut Vec<u8>, reports: &[ShardReport], uptime_ms: u64) {
    let mut members: Vec<(String, u64)> = vec![("topics".into(), sum(reports, |report| report.topic_count))];
    for class in CLASSES {
        members.push((format!("topics_{}", class_name(class)), class_sum(reports, class)));
    }
    members.extend([
        ("routers".into(), sum(reports, |report| report.routers.routers)),
        ("records_live".into(), sum(reports, |report| report.gauges.records)),
        ("bytes_live".into(), sum(reports, |report| report.gauges.bytes)),
        ("queue_topics".into(), sum(reports, |report| report.gauges.queues)),
        ("queue_leases_in_flight".into(), sum(reports, |report| report.gauges.leases)),
        ("sse_connections".into(), shared(reports, |report| report.streams)),
        ("watch_sessions".into(), shared(reports, |report| report.sessions)),
    ]);
    out.push(b'{');
    for (name, value) in members {
        write_str(out, &name);
        out.push(b':');
        write_u64(out, value);
        out.push(b',');
    }
    out.extend_from_slice(b"\"ready\":true,\"replay_progress\":1.0,\"uptime_ms\":");
    write_u64(out, uptime_ms);
    out.extend_from_slice(b",\"wal\":{");
    for (name, value) in wal_members(reports) {
        write_str(out, name);
        out.push(b':');
        write_u64(out, value);
        out.push(b',');
    }
    let read_only = reports.iter().any(|report| report.read_only);
    out.extend_from_slice(if read_only { b"\"read_only\":true}}" } else { b"\"read_only\":false}}" });
}

fn wal_members(reports: &[ShardReport]) -> [(&'static str, u64); 10] {
    [
        ("fsyncs", sum(reports, |report| report.log.fsyncs)),
        ("frames", sum(reports, |report| report.log.frames)),
        ("batches", sum(reports, |report| report.log.blocks)),
        ("bytes_written", sum(reports, |report| report.log.bytes_written)),
        ("rotations", sum(reports, |report| report.log.rotations)),
        ("queue_depth", sum(reports, |report| report.depth)),
        ("queue_depth_peak", reports.iter().map(|report| report.log.depth_peak as u64).max().unwrap_or(0)),
        ("submit_full_total", sum(reports, |report| report.log.submit_full)),
        ("fsync_count", sum(reports, |report| report.log.fsyncs)),
        ("fsync_micros_total", sum(reports, |report| report.log.fsync_us)),
    ]
}

/// Prometheus text, being written.
struct Text<'a> {
    out: &'a mut Vec<u8>,
}

impl Text<'_> {
    /// `# HELP` and `# TYPE` (H-9).
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        for part in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.out.extend_from_slice(part.as_bytes());
        }
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.out.extend_from_slice(name.as_bytes());
        for (index, (label, text)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { b'{' } else { b',' });
            self.out.extend_from_slice(label.as_bytes());
            self.out.extend_from_slice(b"=\"");
            // Names are ASCII without quotes, backslashes or line breaks (NM-1).
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
        }
        if !labels.is_empty() {
            self.out.push(b'}');
        }
        self.out.push(b' ');
        write_u64(self.out, value);
        self.out.push(b'\n');
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }
}

/// The text form (§11).
pub(crate) fn render_text(out: &mut Vec<u8>, reports: &[ShardReport], uptime_ms: u64) {
    let mut text = Text { out };
    text.single("topics_topics", "gauge", "Topics.", sum(reports, |report| report.topic_count));
    text.head("topics_topics_by_class", "gauge", "Topics by durability class.");
    for class in CLASSES {
        text.line("topics_topics_by_class", &[("class", class_name(class))], class_sum(reports, class));
    }
    text.single("topics_routers", "gauge", "Routers.", sum(reports, |report| report.routers.routers));
    text.single("topics_records_live", "gauge", "Live records.", sum(reports, |r| r.gauges.records));
    text.single("topics_bytes_live", "gauge", "Bytes of live records.", sum(reports, |r| r.gauges.bytes));
    render_topics(&mut text, reports);
    text.single("topics_queue_topics", "gauge", "Queue topics.", sum(reports, |r| r.gauges.queues));
    text.single("topics_queue_leases_in_flight", "gauge", "Leased jobs.", sum(reports, |r| r.gauges.leases));
    text.single("topics_sse_connections", "gauge", "Open streams.", shared(reports, |r| r.streams));
    text.single("topics_watch_sessions", "gauge", "Watch sessions.", shared(reports, |r| r.sessions));
    text.single("topics_ready", "gauge", "1 once recovery is complete.", 1);
    text.single("topics_recovery_progress", "gauge", "Recovery, 0 to 1.", 1);
    text.single("topics_uptime_ms", "counter", "Milliseconds since start.", uptime_ms);
    render_wal(&mut text, reports);
    render_own(&mut text, reports);
}

fn render_topics(text: &mut Text<'_>, reports: &[ShardReport]) {
    let mut topics: Vec<&TopicSeries> = reports.iter().flat_map(|report| &report.topics).collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let truncated = topics.len() > TOPIC_SERIES_MAX;
    topics.truncate(TOPIC_SERIES_MAX);
    type Value = fn(&TopicSeries) -> u64;
    let series: [(&str, &str, Value); 4] = [
        ("topics_topic_head_seq", "Head of a topic.", |topic| topic.head),
        ("topics_topic_earliest_seq", "First live position of a topic.", |topic| topic.earliest),
        ("topics_topic_records_live", "Live records of a topic.", |topic| topic.records),
        ("topics_topic_bytes_live", "Bytes of a topic's live records.", |topic| topic.bytes),
    ];
    for (name, help, value) in series {
        text.head(name, "gauge", help);
        for topic in &topics {
            text.line(name, &[("topic", label(topic))], value(topic));
        }
    }
    type OfQueue = fn(&QueueCounts) -> u64;
    let queues: [(&str, &str, OfQueue); 2] = [
        ("topics_topic_queue_ready", "Ready jobs of a queue.", |queue| queue.ready),
        ("topics_topic_queue_in_flight", "Leased jobs of a queue.", |queue| queue.in_flight),
    ];
    for (name, help, value) in queues {
        text.head(name, "gauge", help);
        for topic in &topics {
            if let Some(queue) = &topic.queue {
                text.line(name, &[("topic", label(topic))], value(queue));
            }
        }
    }
    let help = "1 if there are more topics than series.";
    text.single("topics_topic_metrics_truncated", "gauge", help, u64::from(truncated));
}

fn label(topic: &TopicSeries) -> &str {
    std::str::from_utf8(&topic.name).expect("topic names are ASCII")
}

fn render_wal(text: &mut Text<'_>, reports: &[ShardReport]) {
    for (name, help, value) in [
        ("topics_wal_frames_total", "Durable log frames.", sum(reports, |r| r.log.frames)),
        ("topics_wal_batches_total", "Group commits.", sum(reports, |r| r.log.blocks)),
        ("topics_wal_fsyncs_total", "Syncs of log files.", sum(reports, |r| r.log.fsyncs)),
        (
            "topics_wal_bytes_written_total",
            "Bytes written to log files.",
            sum(reports, |r| r.log.bytes_written),
        ),
        ("topics_wal_rotations_total", "Changes to the next log file.", sum(reports, |r| r.log.rotations)),
        ("topics_wal_submit_full_total", "Batches that met a full log.", sum(reports, |r| r.log.submit_full)),
        ("runelog_wal_marks_total", "Bookkeeping entries in the log.", sum(reports, |r| r.log.marks)),
    ] {
        text.single(name, "counter", help, value);
    }
    let peak = reports.iter().map(|report| report.log.depth_peak as u64).max().unwrap_or(0);
    let read_only = u64::from(reports.iter().any(|report| report.read_only));
    for (name, help, value) in [
        ("topics_wal_queue_depth", "Group commits closed or in flight.", sum(reports, |r| r.depth)),
        ("topics_wal_queue_depth_peak", "Most of them so far, on one core.", peak),
        ("topics_wal_read_only", "1 if a core's log takes no more writes.", read_only),
        ("runelog_commits_in_flight", "Group commits in flight.", sum(reports, |r| r.in_flight)),
    ] {
        text.single(name, "gauge", help, value);
    }
    let name = "topics_wal_fsync_latency_us";
    text.head(name, "histogram", "Microseconds of a sync.");
    let bucket = format!("{name}_bucket");
    let mut below = 0;
    for at in 0..=FSYNC_BOUNDS_US.len() {
        below += sum(reports, |report| report.log.fsync_buckets[at]);
        let bound = FSYNC_BOUNDS_US.get(at).map_or("+Inf".to_owned(), u64::to_string);
        text.line(&bucket, &[("le", &bound)], below);
    }
    text.line(&format!("{name}_sum"), &[], sum(reports, |report| report.log.fsync_us));
    text.line(&format!("{name}_count"), &[], sum(reports, |report| report.log.fsyncs));
}

/// Series of Runelog's own, by core where that says something.
fn render_own(text: &mut Text<'_>, reports: &[ShardReport]) {
    type Value = fn(&ShardReport) -> u64;
    let series: [(&str, &str, &str, Value); 20] = [
        ("runelog_requests_total", "counter", "Requests received.", |r| r.counters.requests),
        ("runelog_forwarded_total", "counter", "Requests sent to another core.", |r| r.counters.forwarded),
        ("runelog_mesh_refused_total", "counter", "Messages that met a full mesh.", |r| r.mesh.refused),
        ("runelog_mesh_messages_total", "counter", "Messages to other cores.", |r| r.mesh.sent),
        ("runelog_mesh_doorbells_total", "counter", "Wake-ups of other cores.", |r| r.mesh.rung),
        ("runelog_cold_reads_total", "counter", "Operations that waited for sealed blocks.", |r| {
            r.counters.cold_reads
        }),
        ("runelog_cache_hits_total", "counter", "Sealed blocks found in memory.", |r| r.cache.hits),
        ("runelog_cache_misses_total", "counter", "Sealed blocks not found.", |r| r.cache.misses),
        ("runelog_cache_evictions_total", "counter", "Sealed blocks that made room.", |r| r.cache.evictions),
        ("runelog_ring_enters_total", "counter", "System calls that submit and collect.", |r| {
            r.counters.ring_enters
        }),
        ("runelog_connections", "gauge", "Open connections.", |r| r.counters.connections),
        ("runelog_long_polls", "gauge", "Waiting long-polls.", |r| r.counters.polls),
        ("runelog_hot_bytes", "gauge", "Log bytes held in memory.", |r| r.gauges.hot_bytes),
        ("runelog_segments", "gauge", "Sealed files in use.", |r| r.gauges.segments),
        ("runelog_router_copies_total", "counter", "Copies that routers brought to their dest.", |r| {
            r.routers.pumps.copies
        }),
        ("runelog_router_skipped_total", "counter", "Records too large for an exactly_once copy.", |r| {
            r.routers.pumps.oversized
        }),
        ("runelog_router_failures_total", "counter", "Forwards that failed and were tried again.", |r| {
            r.routers.pumps.failed
        }),
        ("runelog_routers_stalled", "gauge", "Routers whose dest takes nothing.", |r| r.routers.stalled),
        ("runelog_log_chunks_late_total", "counter", "Log memory that was made only when needed.", |r| {
            r.gauges.chunks_late
        }),
        ("runelog_checkpoints_total", "counter", "Checkpoints written.", |r| r.gauges.checkpoints),
    ];
    for (name, kind, help, value) in series {
        text.head(name, kind, help);
        for report in reports {
            text.line(name, &[("core", &report.shard.to_string())], value(report));
        }
    }
    text.head("runelog_responses_total", "counter", "Answers by status.");
    for (at, status) in STATUSES.iter().enumerate() {
        let total = sum(reports, |report| report.counters.answered[at]);
        if total > 0 {
            text.line("runelog_responses_total", &[("status", &status.to_string())], total);
        }
    }
    text.head("runelog_refused_total", "counter", "Refused requests by code.");
    for report in reports {
        let core = report.shard.to_string();
        for code in Code::ALL {
            let count = report.counters.refused[code as usize];
            if count > 0 {
                text.line("runelog_refused_total", &[("core", &core), ("code", code.name())], count);
            }
        }
    }
    text.head("runelog_commit_batch_bytes", "gauge", "Mean bytes of a group commit.");
    let (bytes, blocks) = (sum(reports, |r| r.log.bytes_written), sum(reports, |r| r.log.blocks));
    text.out.extend_from_slice(b"runelog_commit_batch_bytes ");
    write_f64(text.out, bytes as f64 / blocks.max(1) as f64);
    text.out.push(b'\n');
}
