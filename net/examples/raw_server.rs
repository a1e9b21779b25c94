//! What the sockets alone can do: a fixed HTTP answer to each request on core 0, `wrk` on core 1.
//! `cargo run --release --example raw_server [connections] [seconds] [buffers] [buffer_bytes] [body_bytes]`
//! Ends by itself with wrk.

use runelog_engine::disk::ring::Ring;
use runelog_net::sockets::{self, Event, Sockets};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!";

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let connections = args.next().unwrap_or(64);
    let seconds = args.next().unwrap_or(5).min(15);
    let buffers = args.next().unwrap_or(256) as u16;
    let buffer_bytes = args.next().unwrap_or(32 << 10);

    let body_bytes = args.next().unwrap_or(0);
    let script = std::env::temp_dir().join(format!("raw_server_{}.lua", std::process::id()));
    let text = match body_bytes {
        0 => String::new(),
        // The end of a body looks like the end of a head, which is all that this server knows.
        _ => format!("wrk.method='POST' wrk.body=string.rep('x', {body_bytes} - 4) .. '\\r\\n\\r\\n'"),
    };
    std::fs::write(&script, text).expect("script");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}/", listener.local_addr().expect("address"));
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let server = std::thread::spawn(move || serve(listener, &seen, buffers, buffer_bytes));
    let duration = format!("-d{seconds}s");
    let status = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1", &format!("-c{connections}"), &duration, "--latency", "-s"])
        .args([script.as_os_str(), url.as_ref()])
        .status();
    stop.store(true, Ordering::Relaxed);
    println!("{}", server.join().expect("server"));
    std::fs::remove_file(&script).expect("script");
    assert!(status.expect("taskset and wrk").success());
}

fn serve(listener: TcpListener, stop: &AtomicBool, buffers: u16, buffer_bytes: usize) -> String {
    pin(0);
    let start = Instant::now();
    let now_ms = || start.elapsed().as_millis() as u64;
    let mut ring = Ring::new(1024).expect("ring");
    let mut sockets = Sockets::with_buffers(&ring, 0, buffers, buffer_bytes).expect("sockets");
    sockets.listen(&mut ring, listener.into());
    let (mut requests, mut waits) = (0_u64, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let more = sockets.turn(&mut ring, now_ms());
        waits += u64::from(!more);
        ring.enter((!more).then_some(Duration::from_millis(50)));
        while let Some(cqe) = ring.next_completion() {
            debug_assert_eq!(cqe.owner(), sockets::OWNER);
            match sockets.on_completion(&mut ring, cqe) {
                Some(Event::Accepted { fd, .. }) => {
                    sockets.adopt(&mut ring, fd).expect("room");
                }
                Some(Event::Received { conn, buf }) => {
                    if let Some((bytes, output)) = sockets.bytes_and_output(&buf, conn) {
                        let body_follows = bytes.starts_with(b"POST") && bytes.len() < 300;
                        if bytes.ends_with(b"\r\n\r\n") && !body_follows {
                            requests += 1;
                            output.extend_from_slice(ANSWER);
                        }
                    }
                    sockets.give_back(buf);
                }
                Some(Event::PeerFinished { conn }) => sockets.close_after_flush(&mut ring, conn),
                _ => {}
            }
        }
    }
    let (user, system) = cpu();
    let (enters, each) = (ring.enters(), |time: f64| time / requests as f64);
    format!(
        "server: {requests} requests, user {user:.0} µs ({:.2} a request), system {system:.0} µs ({:.2} a \
         request), {:.1} requests an enter, {waits} waits, {:?}",
        each(user),
        each(system),
        requests as f64 / enters as f64,
        sockets.counters()
    )
}

/// User and system time of this thread in µs.
fn cpu() -> (f64, f64) {
    // SAFETY: fills a plain struct of numbers.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    (micros(usage.ru_utime), micros(usage.ru_stime))
}

fn pin(core: usize) {
    // SAFETY: a plain set of bits for a plain system call on this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}
