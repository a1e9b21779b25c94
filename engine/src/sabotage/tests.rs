//! The proof: every deliberate bug is found.

use super::Bug;
use std::cell::Cell;

thread_local! {
    /// The bug that is switched on.
    pub(super) static ON: Cell<Option<Bug>> = const { Cell::new(None) };
}
