//! One program for all targets: `RUNELOG_FUZZ_TARGET` names one.

#![no_main]

use std::sync::OnceLock;

use runelog_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("RUNELOG_FUZZ_TARGET").expect("RUNELOG_FUZZ_TARGET names a target");
        let target = Target::named(&name).unwrap_or_else(|| panic!("no target {name}"));
        TARGET.get_or_init(|| target);
    },
    |input: &[u8]| TARGET.get().expect("init ran").run(input)
);
