//! Workloads shared by the benches in `benches/benches`.
