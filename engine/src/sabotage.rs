//! Deliberate bugs, each a line somewhere in the engine, that prove that the tests can fail: with one
//! switched on, the simulator must find it and say which rule it breaks ([`tests`]).
//!
//! The switch is there in this crate's own unit tests only. It is no cargo feature on purpose: features
//! are united over a workspace, and then the server that process tests start and kill, and all other
//! integration tests, would run code with switches in it. In every other build [`is`] is a constant `false`
//! and the lines vanish.

macro_rules! bugs {
    ($($(#[$what:meta])* $name:ident,)*) => {
        /// One deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[$what])* $name,)*
        }

        #[cfg(test)]
        const ALL: &[Bug] = &[$(Bug::$name,)*];
    };
}

bugs! {
    /// Acknowledges before the sync: no block waits for one (`wal/log.rs`).
    AckBeforeSync,
    /// Shows what is not committed yet (`shard/mod.rs`).
    PublishBeforeCommit,
    /// Tries a failed sync again, as if it said anything about what the first one lost (`wal/log.rs`).
    RetryFailedSync,
    /// Writes a synced block although blocks before it are not synced, without a barrier (`wal/log.rs`).
    SkipBarrier,
    /// Does not sync the pool's directory after segments got their names (`shard/seal_job.rs`).
    SegmentNamesUnsynced,
    /// Does not sync the shard's directory after a checkpoint got its name (`checkpoint/write.rs`).
    CheckpointNameUnsynced,
    /// Uses log files again that the checkpoint does not replace (`shard/checkpoints.rs`).
    RecycleTooEarly,
    /// A checkpoint does not say what was deleted (`shard/checkpoints.rs`).
    ForgetDeletes,
    /// A checkpoint does not name idempotency keys (`shard/checkpoints.rs`).
    ForgetKeys,
    /// A checkpoint leaves leases out (`shard/checkpoints.rs`).
    ForgetLeases,
    /// A checkpoint counts records that only memory holds (`shard/checkpoints.rs`).
    DescribeEphemeral,
    /// Gives seqs away again that a power loss took (`shard/replay.rs`).
    ReuseSeqs,
    /// Reserves seqs with a mark that is not synced (`shard/append.rs`).
    ReserveUnsynced,
    /// Vacant seqs count toward `cap_records` (`topic.rs`).
    CountPadding,
    /// Replay drops what comes behind a gap of seqs (`shard/replay.rs`).
    GapEndsReplay,
    /// Replay applies the front of a batch whose end is missing (`shard/replay.rs`).
    HalfBatch,
    /// Replay goes on with a block whose payload does not hold (`shard/recover.rs`).
    TrustPayload,
    /// Damage inside the log is taken for its torn end (`shard/recover.rs`).
    TornTailInside,
    /// Recovery does not sync what the killed process left unsynced (`shard/recover.rs`).
    RecoveredUnsynced,
    /// The cache takes blocks at the same offset of two segments for one (`index.rs`).
    StaleCache,
    /// Settings are acknowledged without a sync (`shard/topics.rs`).
    ConfigUnsynced,
    /// What is over by age leaves no mark in the log (`shard/topics.rs`).
    ExpiryUnlogged,
    /// What a cap pushes out leaves no mark in the log (`shard/append.rs`).
    EvictionUnlogged,
    /// A topic that is dropped does not give its quota back (`shard/topics.rs`).
    KeepQuota,
    /// A delete of records is not logged (`shard/delete.rs`).
    DeleteUnlogged,
    /// An ack is not logged (`shard/delete.rs`).
    AckUnlogged,
    /// Tokens of leases begin with 1 in every run (`shard/queue.rs`).
    TokensFromOne,
    /// A lease is over before its deadline (`queue.rs`).
    LeaseOverEarly,
    /// A job leaves the queue before its copy is in the dead-letter topic (`shard/queue.rs`).
    DeadLetterEarly,
    /// A router's place is not in the batch of its copies (`shard/forward.rs`).
    PlaceUnlogged,
    /// A place above what the source recovered stays there (`shard/routers.rs`).
    NoRewind,
    /// What a router's source lost leaves no gap in its dest (`shard/forward.rs`).
    TrimUntold,
    /// Another number of shards forgets what only the log held (`shard/export.rs`).
    ReshardForgetsLog,
}

/// Whether this thread has the bug switched on.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

/// Whether this thread has the bug switched on.
#[cfg(test)]
pub(crate) fn is(bug: Bug) -> bool {
    tests::ON.get() == Some(bug)
}

#[cfg(test)]
mod tests;
