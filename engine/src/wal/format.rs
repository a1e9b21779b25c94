//! Frames and blocks of the log as bytes.
