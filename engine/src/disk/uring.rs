//! The real disk, through `io_uring`.
