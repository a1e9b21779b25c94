//! Sockets against clients of `std::net`: bytes in, bytes out, ends of connections.

mod common;

use common::{Mode, Server, data, echo, read_rest, reset, wait_until};
use runelog_engine::disk::ring::Ring;
use runelog_net::limits::{OUTPUT_BACKLOG_BYTES_MAX, RECV_BUFFER_BYTES, RECV_BUFFERS, SENDS_PER_TURN_MAX};
use runelog_net::sockets::{CloseReason, Sockets};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const BUFFERS: (u16, usize) = (RECV_BUFFERS, RECV_BUFFER_BYTES);

fn start(mode: Mode) -> Server {
    Server::start(mode, BUFFERS.0, BUFFERS.1)
}

#[test]
fn bytes_of_every_size_come_back_unchanged() {
    let server = start(Mode::Echo);
    let client = server.connect();
    for bytes in [1, 2, 100, 4095, 16_384, 16_385, 65_537, 300_000, 1 << 20] {
        echo(&client, &data(bytes, bytes));
    }
    assert!(read_rest(client).is_empty());
    let report = server.stop();
    assert_eq!(report.reasons, [CloseReason::Flushed]);
}

#[test]
fn two_hundred_connections_are_served_at_once() {
    let server = start(Mode::Echo);
    let clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for round in 0..5 {
        for (index, client) in clients.iter().enumerate() {
            (&*client).write_all(&data(500 + index, round * 1000 + index)).unwrap();
        }
        for (index, client) in clients.iter().enumerate() {
            let mut back = vec![0; 500 + index];
            (&*client).read_exact(&mut back).unwrap();
            assert!(back == data(500 + index, round * 1000 + index), "client {index}");
        }
    }
    drop(clients);
    wait_until("all are closed", || server.shared.closed.load(Relaxed) == 200);
    assert_eq!(server.stop().counters.adopted, 200);
}

/// What waits for its send takes what is added meanwhile along.
#[test]
fn a_turn_sends_to_so_many_connections_and_the_others_follow_with_what_came_meanwhile() {
    const MORE: usize = 10;
    let mut ring = Ring::new(256).unwrap();
    let mut sockets = Sockets::with_buffers(&ring, 0, 64, 4096).unwrap();
    let pairs = (0..SENDS_PER_TURN_MAX + MORE).map(|_| UnixStream::pair().unwrap());
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
    let adopt = |ours: UnixStream| sockets.adopt(&mut ring, ours.into()).unwrap();
    let ids: Vec<_> = ours.into_iter().map(adopt).collect();
    let turn = |sockets: &mut Sockets, ring: &mut Ring| {
        let more = sockets.turn(ring, 0);
        ring.enter(None);
        while let Some(cqe) = ring.next_completion() {
            sockets.on_completion(ring, cqe);
        }
        (more, sockets.counters().sends)
    };
    let say = |sockets: &mut Sockets, word: &[u8]| {
        ids.iter().for_each(|id| sockets.output(*id).unwrap().extend_from_slice(word));
    };
    say(&mut sockets, b"one ");
    assert_eq!(turn(&mut sockets, &mut ring), (true, SENDS_PER_TURN_MAX as u64));
    say(&mut sockets, b"two ");
    // The last ten with both words, then the first ones with their second.
    assert_eq!(turn(&mut sockets, &mut ring), (true, 2 * SENDS_PER_TURN_MAX as u64));
    assert_eq!(turn(&mut sockets, &mut ring), (false, (2 * SENDS_PER_TURN_MAX + MORE) as u64));
    for mut client in theirs {
        let mut words = [0; 8];
        client.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"one two ");
    }
    sockets.close_all(&mut ring);
    while sockets.connections() > 0 {
        turn(&mut sockets, &mut ring);
    }
    assert!(sockets.finish(&ring).is_ok());
}

#[test]
fn a_client_that_finished_sending_still_gets_its_answer() {
    let server = start(Mode::Echo);
    for bytes in [1, 50_000] {
        let mut client = server.connect();
        client.write_all(&data(bytes, 0)).unwrap();
        assert!(read_rest(client) == data(bytes, 0));
    }
    assert_eq!(server.stop().reasons, [CloseReason::Flushed; 2]);
}

#[test]
fn a_reset_while_sending_ends_that_connection_alone() {
    let server = start(Mode::Answer(32 << 20));
    let other = server.connect();
    for _ in 0..5 {
        let mut client = server.connect();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
        reset(client);
    }
    wait_until("the resets are seen", || server.shared.closed.load(Relaxed) == 5);
    (&other).write_all(b"x").unwrap();
    let mut back = vec![0; 32 << 20];
    (&other).read_exact(&mut back).unwrap();
    assert!(back == data(32 << 20, 0));
    let report = server.stop();
    for reason in &report.reasons[..5] {
        let known = [libc::ECONNRESET, libc::EPIPE].map(CloseReason::Failed);
        assert!(known.contains(reason), "{reason:?}");
    }
    assert_eq!(report.reasons[5..], [CloseReason::Asked]);
}

#[test]
fn a_paused_connection_holds_its_client_back_and_loses_nothing() {
    let server = start(Mode::Count);
    let mut client = server.connect();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = data(64 << 10, 0);
    let mut written = 0_u64;
    loop {
        match client.write(&chunk) {
            Ok(bytes) => written += bytes as u64,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(written < 64 << 20, "the kernel's buffers have an end");
    }
    // What came after `pause` was in provided buffers already.
    let held = server.shared.received.load(Relaxed);
    assert!(held <= BUFFERS.0 as u64 * BUFFERS.1 as u64, "{held} bytes received while paused");
    assert!(held < written);
    server.shared.go.store(true, Relaxed);
    client.set_write_timeout(None).unwrap();
    client.write_all(&chunk).unwrap();
    written += chunk.len() as u64;
    assert!(read_rest(client).is_empty());
    assert_eq!(server.shared.received.load(Relaxed), written);
    server.stop();
}

#[test]
fn a_client_that_does_not_read_is_held_back_at_the_backlog() {
    let server = start(Mode::Echo);
    let client = server.connect();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut written = 0;
    while let Ok(bytes) = (&client).write(&data(64 << 10, written)) {
        written += bytes;
        assert!(written < 256 << 20, "the flood has an end");
    }
    let backlog = server.shared.backlog_max.load(Relaxed);
    let bound = OUTPUT_BACKLOG_BYTES_MAX + BUFFERS.0 as usize * BUFFERS.1;
    assert!(backlog > OUTPUT_BACKLOG_BYTES_MAX && backlog <= bound, "{backlog} bytes queued");
    let back = read_rest(client);
    assert_eq!(back.len(), written);
    // The client wrote pieces of the pattern that each begin at its own count: one unbroken pattern.
    assert!(back == data(written, 0));
    server.stop();
}

#[test]
fn exhausted_buffers_recover_without_losing_bytes() {
    let server = Server::start(Mode::Echo, 4, 1024);
    std::thread::scope(|scope| {
        for index in 0..40 {
            let client = server.connect();
            scope.spawn(move || {
                for round in 0..4 {
                    echo(&client, &data(40_000, index * 50_000 + round));
                }
            });
        }
    });
    let report = server.stop();
    assert!(report.counters.starved > 0, "never ran out of buffers");
    assert_eq!(report.counters.received_bytes, 40 * 4 * 40_000);
}

#[test]
fn the_last_answer_reaches_a_client_that_is_still_sending() {
    let server = start(Mode::AnswerAndClose(2 << 20));
    for _ in 0..10 {
        let client = server.connect();
        std::thread::scope(|scope| {
            scope.spawn(|| (&client).write_all(&data(600_000, 0)).unwrap());
            let mut answer = Vec::new();
            (&client).read_to_end(&mut answer).unwrap();
            assert!(answer == data(2 << 20, 0), "{} bytes", answer.len());
        });
    }
    wait_until("all are closed", || server.shared.closed.load(Relaxed) == 10);
    assert_eq!(server.stop().reasons, [CloseReason::Flushed; 10]);
}

#[test]
fn a_client_that_never_stops_sending_is_cut_off_after_its_answer() {
    let server = start(Mode::AnswerAndClose(1000));
    let mut client = server.connect();
    let chunk = data(64 << 10, 0);
    let mut written = 0_usize;
    while client.write_all(&chunk).is_ok() {
        written += chunk.len();
        assert!(written < 1 << 30, "the drain has an end");
    }
    wait_until("it is closed", || server.shared.closed.load(Relaxed) == 1);
    assert_eq!(server.stop().reasons, [CloseReason::Flushed]);
}

#[test]
fn a_silent_client_is_closed_when_the_drain_time_is_over() {
    let server = start(Mode::AnswerAndClose(1000));
    let mut client = server.connect();
    client.write_all(b"x").unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), 1000);
    // The client neither closes nor sends; only the timer ends this.
    wait_until("it is closed", || server.shared.closed.load(Relaxed) == 1);
    assert_eq!(server.stop().reasons, [CloseReason::Flushed]);
    drop(client);
}
