//! Lua spells: functions that transform, guard and answer on the core that owns the data.
//!
//! Nothing of that is here yet. The crate holds its place in the one-way order of dependencies
//! (`tools → net → spell → engine`), so that the first spell changes no arrow. Until then the
//! server has no spell endpoint, no spell setting and no Lua in its build.
