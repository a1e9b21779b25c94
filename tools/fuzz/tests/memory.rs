//! The allocator that the bounds of memory rest on.

#![allow(missing_docs)]

use runelog_fuzz::alloc::peak_of;

#[test]
fn the_most_that_was_held_is_seen_and_what_was_given_back_is_not() {
    let (_, peak) = peak_of(|| {
        for _ in 0..10 {
            std::hint::black_box(vec![0u8; 1 << 20]);
        }
    });
    assert!((1 << 20..2 << 20).contains(&peak), "{peak}");
    let (_, peak) = peak_of(|| {
        let mut grown: Vec<u8> = Vec::with_capacity(10);
        grown.resize(3 << 20, 1);
        std::hint::black_box(&grown);
    });
    assert!((3 << 20..8 << 20).contains(&peak), "{peak}");
    assert_eq!(peak_of(|| ()).1, 0);
}
