//! Every bound of the network side, checked against the others at compile time.

/// Provided receive buffers of one core. A power of two (the kernel's ring).
pub const RECV_BUFFERS: u16 = 256;
/// Bytes of one provided receive buffer: a request of up to this size with its head is whole in one.
/// Measured with 64 clients: 16 and 32 KiB cost the same CPU for small and 10 KB requests; at 100 KB
/// 256 x 16 KiB ran out of buffers, 256 x 32 KiB never did.
pub const RECV_BUFFER_BYTES: usize = 32 << 10;
/// Connections of one core at most (`user_data` keeps 24 bits for the index).
pub const CONNECTIONS_MAX: usize = 1 << 20;
/// Listening sockets of one core at most.
pub const LISTENERS_MAX: usize = 16;
/// Responses queued for one connection above which its caller stops parsing pipelined requests.
pub const OUTPUT_BACKLOG_BYTES_MAX: usize = 1 << 20;
/// An output buffer that grew above this is freed when it was sent, not pooled.
pub const OUTPUT_POOLED_BYTES_MAX: usize = 64 << 10;
/// Output buffers kept for reuse by one core.
pub const OUTPUT_POOL_COUNT_MAX: usize = 256;
/// Bytes handed to the kernel by one send; the rest of a longer output follows. Small enough to see a slow
/// reader's progress: a send completes when all of it was taken.
pub const SEND_BYTES_MAX: usize = 256 << 10;
/// A connection that closes after its last answer has this long to take that answer.
pub const CLOSE_FLUSH_MS: u64 = 30_000;
/// After its last answer a connection's further bytes are thrown away for this long…
pub const CLOSE_DRAIN_MS: u64 = 1_000;
/// …and up to this many, so that a client still sending reads the answer instead of a reset. Twice the
/// default limit of a body: one that is somewhat too large (B-3) is usually sent whole before the client
/// looks for an answer.
pub const CLOSE_DRAIN_BYTES_MAX: usize = 128 << 20;
/// How long accepting rests after the process ran out of descriptors or memory.
pub const ACCEPT_RETRY_MS: u64 = 100;
/// Sends that one system call submits, at most: each takes the kernel some microseconds, in which nothing that
/// arrives is seen. What waits for its send goes out with what is added meanwhile.
pub const SENDS_PER_TURN_MAX: usize = 32;
/// Starved receives (no provided buffer was free) that are armed again in one turn.
pub const STARVED_PER_TURN_MAX: usize = 64;
/// Length of one step of the timer wheel.
pub const TICK_MS: u64 = 10;
/// Messages in flight from one core to another; above it the sender is refused.
pub const MESH_DEPTH: usize = 1024;
/// Messages a core takes from the others in one turn.
pub const MESH_PER_TURN_MAX: usize = 512;

const _: () = assert!(RECV_BUFFERS.is_power_of_two() && RECV_BUFFERS <= 32768);
const _: () = assert!(CONNECTIONS_MAX <= 1 << 24 && LISTENERS_MAX <= 1 << 24);
// A pooled buffer must not alone reach the backlog at which parsing stops.
const _: () = assert!(OUTPUT_POOLED_BYTES_MAX < OUTPUT_BACKLOG_BYTES_MAX);
const _: () = assert!(SEND_BYTES_MAX <= i32::MAX as usize);
/// Operations of one core that wait for room in the log or for a delete; more are `429`.
pub const BUSY_MAX: usize = 4096;
/// …and one that waited this long is `429` too: a full disk gives its log no room.
pub const BUSY_MS_MAX: u64 = 5_000;
/// Long-polls that wait on one core; more are `429`.
pub const POLLS_MAX: usize = 100_000;
/// Claims of one core that wait for the end of their window; more are `429`.
pub const CLAIMS_WAITING_MAX: usize = 65_536;
/// A work stream is not silent for longer.
pub const WORK_HEARTBEAT_MS: u64 = 15_000;
/// How often a queue with work streams is looked at while anything of it is leased or delayed.
pub const WORK_CHECK_MS: u64 = 200;
/// Jobs that the claims of one window may ask for together; a claim beyond is `429`.
pub const CLAIM_WINDOW_JOBS_MAX: u64 = 16_384;
/// Jobs that one claim moves to the dead-letter topic; further ones are passed over until the next.
pub const MOVES_PER_CLAIM_MAX: usize = 1024;
/// Bytes of request bodies that one core's connections may be collecting at once; a further body that
/// comes in pieces is `429`. One alone may be larger, up to the body limit.
pub const BODIES_BYTES_MAX: u64 = 1 << 30;
/// Answers to a core's own questions that it goes on with in one turn.
pub const TASK_ANSWERS_PER_TURN_MAX: usize = 1024;
/// API keys at most. Every request is compared with all of them, at some nanoseconds each.
pub const API_KEYS_MAX: usize = 10_000;
/// HTTP/2: what a client may send ahead on one stream (T-10)…
pub const H2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// …and on one connection.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Streams of one connection that may be open at once (T-10).
pub const H2_STREAMS_MAX: u32 = 1024;
/// Requests of one connection that are at work, those included that the client gave up since; a further
/// one is refused. What resets its streams at once gains nothing by it.
pub const H2_UNANSWERED_MAX: usize = 2 * H2_STREAMS_MAX as usize;
/// Header bytes of one request as HTTP/2 counts them, 32 for each field included (T-8).
pub const H2_HEADER_LIST_BYTES_MAX: u32 = 256 << 10;
/// A client that was silent this long is asked whether it is there (T-10)…
pub const H2_PING_EVERY_MS: u64 = 20_000;
/// …and has this long to say so.
pub const H2_PING_TIMEOUT_MS: u64 = 20_000;
/// Bytes of a body that nobody wants, let through before the stream is reset.
pub const H2_DISCARD_BYTES_MAX: usize = 128 << 20;
/// A whole answer of which the client takes nothing for this long is given up.
pub const H2_STALLED_MS: u64 = 60_000;

// A stream that is answered makes room for the next; refusing must not begin before the protocol does.
const _: () = assert!(H2_UNANSWERED_MAX >= H2_STREAMS_MAX as usize);
const _: () = assert!(H2_STREAM_WINDOW_BYTES <= H2_CONNECTION_WINDOW_BYTES);
/// Bytes of one WebSocket frame (WS-5)…
pub const WS_FRAME_BYTES_MAX: usize = 16 << 20;
/// …and of one message.
pub const WS_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// What a WebSocket holds to read into while nothing comes.
pub const WS_READ_BUFFER_BYTES: usize = 4 << 10;
/// Subscriptions of one WebSocket at most: each may have some bytes on their way.
pub const WS_SUBSCRIPTIONS_MAX: usize = 4096;

const _: () = assert!(WS_MESSAGE_BYTES_MAX.is_multiple_of(WS_FRAME_BYTES_MAX));
/// Items rendered for watchers in one turn of a core; the rest follow in the next.
pub const FEED_RENDERS_PER_TURN_MAX: usize = 64;
/// …of which one topic gets so many, so that watchers of others are not kept waiting.
pub const FEED_RENDERS_PER_TOPIC_MAX: usize = 16;
/// Bytes rendered for watchers in one turn; the item that goes beyond is the last.
pub const FEED_BYTES_PER_TURN_MAX: u64 = 4 << 20;
/// Bytes on their way to one stream, above which the owners of its topics send it no more; each topic has
/// its part of it. One item may go beyond.
pub const FEED_WINDOW_BYTES: u64 = 256 << 10;
/// …and this much each topic has at least.
pub const FEED_WINDOW_BYTES_MIN: u64 = 8 << 10;
/// A connection with a longer backlog gives no credit back: its client reads too slowly.
pub const FEED_BACKLOG_BYTES: usize = 64 << 10;
/// A session without an open stream is forgotten after this long (S-6).
pub const SESSION_IDLE_MS: u64 = 300_000;
/// A record that came through this many routers goes through no more.
pub const ROUTER_HOPS_MAX: u8 = 8;
/// Records of one forward…
pub const FORWARD_RECORDS_MAX: usize = 4096;
/// …and their bytes, but always one record.
pub const FORWARD_BYTES_MAX: usize = 512 << 10;
/// Copies go out this long after their record at the latest, if nobody waits for them.
pub const FORWARD_DELAY_MS: u64 = 20;
/// How long a router rests whose dest took nothing.
pub const FORWARD_RETRY_MS: u64 = 40;
/// PUTs and deletions of routers, and of topics with routers, that wait for one another; more are `429`.
pub const REGISTRY_QUEUE_MAX: usize = 4096;
/// …and one that meets failures (a full log, a broken disk), at most.
pub const FORWARD_FAULT_MS_MAX: u64 = 1_000;
