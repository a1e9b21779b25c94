//! The one binary, `runelog`.
fn main() {}
