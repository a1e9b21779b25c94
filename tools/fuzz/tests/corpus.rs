//! Every target over its kept inputs, over small changes of these, and over random mutations. A longer run:
//! `RUNELOG_FUZZ_ROUNDS` mutations from `RUNELOG_FUZZ_SEED`.

#![allow(missing_docs)]

use runelog_fuzz::drill::{Effort, corpus, corpus_dir, drill};
use runelog_fuzz::{TARGETS, Target};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn holds(name: &str) {
    let target = Target::named(name).expect("a target");
    let effort = Effort {
        truncations: 16,
        changes: 24,
        mutations: setting("RUNELOG_FUZZ_ROUNDS", 3_000) as usize,
        seed: setting("RUNELOG_FUZZ_SEED", 1),
    };
    let count = drill(target, effort);
    assert!(count > effort.mutations / target.cost + corpus(target).len(), "{name} has no corpus");
    println!("{name}: {count} inputs: {}", target.promise);
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn every_target_is_here_and_has_a_folder_and_every_folder_a_target() {
            let here = [$(stringify!($name)),*];
            let named: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(named, here);
            let folders = corpus_dir(&TARGETS[0]);
            let folders = std::fs::read_dir(folders.parent().expect("corpus")).expect("corpus");
            for folder in folders {
                let name = folder.expect("an entry").file_name();
                assert!(here.iter().any(|known| name == **known), "no target {name:?}");
            }
        }
    };
}

targets! { head requests chunked text json write control websocket entries blocks segment checkpoint layout recovery settings }
