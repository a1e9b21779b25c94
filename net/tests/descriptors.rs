//! Descriptors are a resource of the whole process, so this file is one test in a process of its own.

mod common;

use common::{Mode, Server, data, echo, read_rest, reset, wait_until};
use std::io::{Read, Write};
use std::sync::atomic::Ordering::Relaxed;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn every_descriptor_is_closed_once_and_running_out_of_them_passes() {
    let before = open_descriptors();
    churn();
    // Rings are taken down by the kernel in the background, their descriptors at once.
    assert_eq!(open_descriptors(), before, "churn leaked descriptors");
    run_out();
    assert_eq!(open_descriptors(), before, "running out leaked descriptors");
}

fn churn() {
    let echoes = Server::start(Mode::Echo, 16, 4096);
    let hang_ups = Server::start(Mode::HangUp, 16, 4096);
    for round in 0..300_usize {
        let client = echoes.connect();
        if !round.is_multiple_of(5) {
            echo(&client, &data(1 + round * 37, round));
        }
        match round % 3 {
            0 => assert_eq!(read_rest(client), b""),
            1 => reset(client),
            _ => drop(client),
        }
        let mut client = hang_ups.connect();
        client.write_all(b"x").unwrap();
        let _ = client.read(&mut [0; 8]); // the end, or a reset
    }
    wait_until("all are closed", || {
        echoes.shared.closed.load(Relaxed) == 300 && hang_ups.shared.closed.load(Relaxed) == 300
    });
    let left: Vec<_> = (0..10).map(|_| echoes.connect()).collect();
    left.iter().for_each(|client| echo(client, b"still open when the server stops"));
    assert_eq!(echoes.stop().counters.adopted, 310);
    assert_eq!(hang_ups.stop().counters.adopted, 300);
}

fn run_out() {
    // The kernel notes the limit when an accept is armed: this one runs into the low limit although the
    // clients have descriptors again, and the one after the rest does not.
    let usual = set_limit(open_descriptors() as u64 + 20);
    let server = Server::start(Mode::Echo, 16, 4096);
    echo(&server.connect(), b"up");
    set_limit(usual);
    let clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    wait_until("accepting fails", || server.shared.accept_errors.load(Relaxed) > 0);
    clients.iter().for_each(|client| echo(client, b"accepted in the end"));
    server.stop();
}

/// Sets how many descriptors the process may have; returns how many it might.
fn set_limit(count: u64) -> u64 {
    // SAFETY: plain system calls on a plain struct of numbers.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        let usual = limit.rlim_cur;
        limit.rlim_cur = count;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        usual
    }
}
