//! Routers (§7), as far as they need no core: which there are, how they hang together, what they copy, and
//! the questions about them. What crosses cores is in [`service`](crate::service): `routers` changes what
//! there is, `pump` moves copies, `settle` waits for them.

pub(crate) mod copies;
pub(crate) mod graph;
pub(crate) mod message;
pub(crate) mod registry;
pub(crate) mod render;
