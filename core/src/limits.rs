//! Bounds that several rooms or users of the core know, named once, with their reasons; what only one room knows stands in
//! its own file. Exceeding one is an explicit state or a counted refusal, never a dropped message on a full channel.

use crate::time::Duration;

/// Connected peers (SPEC 8.7 `max_peers`), a default. Those with jobs or transfers may be more.
pub const PEERS_MAX: usize = 50;
/// Connections including handshakes: room for peers that come while others go.
pub const CONNECTIONS_MAX: usize = 256;
/// Connections that were closed and still drain, beside those alive: the oldest are forgotten, whose peers then hear a reset.
pub const CONNECTIONS_DRAINING_MAX: usize = 256;
/// Links beyond which a newcomer is told that the node is full: below [`CONNECTIONS_MAX`], so that it can still be told, and
/// that this node's own dials find room.
pub const LINKS_MAX: usize = 224;
/// A peer that dials a node with `max_peers` connected ones stays this long without using the connection: long enough
/// to tell each other of peers, and for a job or a transfer to begin, which makes it stay for [`GUEST_KEPT`].
pub const GUEST_STAY: Duration = Duration::from_secs(5);
/// A guest that has used its connection is sent away after this long without use, if there is still no room for it.
pub const GUEST_KEPT: Duration = Duration::from_secs(30);
/// Known peers kept, a default: about 200 bytes each, and as much again in the journal.
pub const KNOWN_PEERS_MAX: usize = 10_000;
/// Known peers told to a newly met peer (SPEC 3.2).
pub const KNOWN_PEERS_SHARED_MAX: usize = 50;
/// Records cached (SPEC 2.5): at most 700 bytes each.
pub const CACHED_RECORDS_MAX: usize = 4_096;
/// DHT operations in flight: more loses replies in `mainline` (docs/PROTOCOL.md, measured).
pub const DHT_OPS_MAX: usize = 4;
/// Lookups waiting for a DHT slot.
pub const LOOKUPS_WAITING_MAX: usize = 256;
/// Identity exchange (SPEC 3.1).
pub const IDENTITY_TIMEOUT: Duration = Duration::from_secs(5);
/// Known-peers exchange (SPEC 3.2).
pub const KNOWN_PEERS_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without activity for this long is closed (SPEC 3.4).
pub const IDLE_CLOSE_AFTER: Duration = Duration::from_secs(300);
/// How often connections are checked for idleness (SPEC 3.4).
pub const IDLE_CHECK_EVERY: Duration = Duration::from_secs(60);
/// Bytes queued on one control stream; a peer that reads slower than this is closed.
pub const CONTROL_QUEUE_BYTES_MAX: usize = 1 << 20;
/// Smallest piece of an object: verified and written as one. A power of two, at least one BLAKE3 chunk.
pub const PIECE_BYTES_MIN: u64 = 256 * 1024;
/// Most pieces of an object, so that its piece list stays below 2 MiB.
pub const PIECES_MAX: u64 = 65_536;
/// Largest object: 1 TiB, so that a piece never exceeds 16 MiB.
pub const OBJECT_BYTES_MAX: u64 = 1 << 40;
/// Objects fetched at once; further ones wait in order.
pub const FETCHES_ACTIVE_MAX: usize = 6;
/// Fetches waiting.
pub const FETCHES_WAITING_MAX: usize = 4_096;
/// Streams to one peer above which a fetch opens none beside its first.
pub const FETCH_LANES_PER_PEER: usize = 4;
/// Requests of one peer served at once: the first stream of each of its fetches, and those beside them.
pub const SERVES_PER_PEER_MAX: usize = FETCHES_ACTIVE_MAX + FETCH_LANES_PER_PEER - 1;
/// Requests served at once.
pub const SERVES_MAX: usize = 64;
/// Bytes read ahead from the store for one served request: the credit between disk and stream.
pub const SERVE_READ_AHEAD_BYTES: u64 = 1 << 20;
/// Pieces a fetch holds, arriving or not yet confirmed by the store: the credit between streams and disk. Half as many when
/// they are larger than 1 MiB.
pub const FETCH_PIECES_HELD_MAX: usize = 8;
/// Objects that are looked up in the store at once, before their turn to be fetched.
pub const FETCH_LOOKUPS_MAX: usize = 16;
/// Bytes asked of a transfer stream at once: enough to make a turn worth while, small beside a piece.
pub const FETCH_READ_BYTES_MAX: usize = 256 * 1024;
/// Sources of one object, of all who want it together.
pub const FETCH_SOURCES_MAX: usize = 32;
/// Those who wait for one object.
pub const FETCH_WAITERS_MAX: usize = 256;
/// Times all sources of an object are tried in vain, without one more piece, before it is given up.
pub const FETCH_ROUNDS_MAX: u32 = 5;
/// Pause after the first round in vain; it doubles, up to [`FETCH_BACKOFF_MAX`].
pub const FETCH_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest pause between rounds.
pub const FETCH_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A source that sends no byte for this long while bytes are asked for has stalled.
pub const FETCH_STALL_AFTER: Duration = Duration::from_secs(15);
/// The first frame of a transfer stream must be here within this time: one without it holds a place for nothing.
pub const TRANSFER_HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A stream must be open (a dial included) within this time.
pub const FETCH_OPEN_TIMEOUT: Duration = Duration::from_secs(45);
/// Ranges of pieces in one request; an object with more holes is asked for in several.
pub const FETCH_RANGES_MAX: usize = 1_024;
/// Bytes of one read from the store for a served object; a piece is a whole number of them, but for the last.
pub const SERVE_READ_BYTES: u64 = PIECE_BYTES_MIN;
/// A consumer that takes no byte for this long is abandoned.
pub const SERVE_STALL_AFTER: Duration = Duration::from_secs(30);
/// Refusals on their way out; beyond, a stream is reset without words.
pub const REFUSALS_MAX: usize = 256;
/// Objects that others may fetch from here: about 100 bytes each.
pub const GRANTS_MAX: usize = 65_536;
/// Requesters of one object.
pub const GRANT_REQUESTERS_MAX: usize = 64;
/// Nodes of a workflow: its tasks, a source for each of them (what is mapped over files has one for each file), and sinks.
pub const WORKFLOW_NODES_MAX: usize = 24_000;
/// Tasks of a workflow: ten thousand that are of one list, and others around them. A run of so many costs about 3 kB of memory
/// and as much of the journal for each.
pub const WORKFLOW_TASKS_MAX: usize = 12_000;
/// Edges of a workflow: ten inputs for each of ten thousand tasks.
pub const WORKFLOW_EDGES_MAX: usize = 100_000;
/// Results that the sinks of a workflow keep together: they are told with every change of the run.
pub const WORKFLOW_RESULTS_MAX: usize = 10_000;
/// Inputs of a task.
pub const TASK_INPUTS_MAX: usize = 256;
/// Arguments or environment entries of a task.
pub const TASK_ARGS_MAX: usize = 256;
/// Bytes of one argument or environment value.
pub const TASK_ARG_BYTES_MAX: usize = 16 * 1024;
/// Runs that have not ended.
pub const RUNS_ACTIVE_MAX: usize = 64;
/// Tasks of runs that have not ended: twelve of the largest runs, or [`RUNS_ACTIVE_MAX`] of 2,000 tasks. About 3 kB each.
pub const RUN_TASKS_ACTIVE_MAX: usize = 128_000;
/// Tasks of ended runs kept. About 3 kB each.
pub const RUN_TASKS_KEPT_MAX: usize = 1_000_000;
/// Ended runs kept for `runs list`; the oldest are forgotten.
pub const RUNS_KEPT_MAX: usize = 1_000;
/// Jobs admitted and not yet released, in all.
pub const JOBS_MAX: usize = 4_096;
/// Unfinished jobs of one requester.
pub const JOBS_PER_REQUESTER_MAX: usize = 512;
/// Jobs held for one requester, results that wait for it or are kept for its run included. A run releases what it
/// needs no more, so this bounds how wide it may be at one executor, not how long. Those of the node itself are bounded by [`JOBS_MAX`] alone.
pub const JOBS_HELD_PER_REQUESTER_MAX: usize = 1_024;
/// Jobs remembered that must not start again. 40 bytes each.
pub const TOMBSTONES_MAX: usize = 4_096;
/// Those of one requester; its oldest make room for its new ones.
pub const TOMBSTONES_PER_REQUESTER_MAX: usize = 512;
/// Jobs running at once, a default.
pub const JOBS_RUNNING_MAX: usize = 4;
/// Services offered by a node, and kept of a peer.
pub const SERVICES_MAX: usize = 64;
/// Heartbeat of executors (SPEC 7.8).
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// Silence after which an attempt is suspect (SPEC 7.8).
pub const SUSPECT_AFTER: Duration = Duration::from_secs(15);
/// Silence after which an attempt is lost (SPEC 7.8).
pub const LOST_AFTER: Duration = Duration::from_secs(30);
/// Settling rounds of one event; more is a bug.
pub const SETTLE_ROUNDS_MAX: usize = 100_000;
