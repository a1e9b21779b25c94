//! The real binary as a process: killed, paused, stopped, started over damage, on a full disk. Every test
//! has its own data directory with small log files, so that sealing, checkpoints and recycling happen
//! while it runs. Scratch goes to `TMPDIR`; a failing test leaves its directory there and says where.
//!
//! `RUNELOG_KILL_ROUNDS`, `RUNELOG_KILL_MS` and `RUNELOG_KILL_SEED` make [`kill`] longer or repeat a run,
//! `RUNELOG_LINEAR_ROUNDS` and `RUNELOG_LINEAR_SEED` do the same for [`linear`].

mod ask;
mod bench;
mod clean_stop;
mod client;
mod full_disk;
mod import_tail;
mod interop;
mod kill;
mod linear;
mod pause;
mod queues;
mod random;
mod restart;
mod routers;
mod routers_defined;
mod routers_load;
mod server;
mod start;
mod stream;
mod tune;
mod verify;
