//! Measures the doorbells between two pinned cores: `cargo run --release --example doorbell`.
//! Ping-pong: each side sleeps in `ring.enter` until the other's message. Flood: one side sends as fast
//! as the queue takes it, the other drains. Ends by itself after about ten seconds.

use runelog_engine::disk::ring::Ring;
use runelog_net::mesh::{self, Mesh, Wake};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);
const WAIT: Duration = Duration::from_millis(100);
const END: u64 = u64::MAX;

fn main() {
    for wake in [Wake::Eventfd, Wake::MsgRing] {
        report(wake, "ping-pong", ping_pong);
        report(wake, "flood", flood);
    }
}

/// What one side did: messages and enters.
type Work = fn(&mut Mesh<u64>, &mut Ring) -> u64;

fn report(wake: Wake, name: &str, work: Work) {
    let start = Instant::now();
    let ends = mesh::connect_with(2, 1024, wake).expect("mesh");
    let threads: Vec<_> = ends
        .into_iter()
        .map(|mut mesh| {
            std::thread::spawn(move || {
                pin(mesh.me());
                let mut ring = Ring::new(256).expect("ring");
                mesh.attach(&mut ring);
                let messages = work(&mut mesh, &mut ring);
                (messages, cpu(), mesh.counters(), ring.enters())
            })
        })
        .collect();
    let sides: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("thread")).collect();
    let seconds = start.elapsed().as_secs_f64();
    let messages = sides[0].0 as f64;
    println!(
        "{wake:?} {name}: {:.0} messages/s, {:.2} µs each",
        messages / seconds,
        seconds * 1e6 / messages
    );
    for (side, (_, cpu, counters, enters)) in sides.iter().enumerate() {
        let micros = cpu.as_secs_f64() * 1e6 / messages;
        println!("  core {side}: {micros:.2} µs CPU a message, {enters} enters, {counters:?}");
    }
}

fn ping_pong(mesh: &mut Mesh<u64>, ring: &mut Ring) -> u64 {
    let start = Instant::now();
    let other = 1 - mesh.me();
    let mut count = 0;
    if mesh.me() == 0 {
        mesh.try_send(other, 0).expect("room");
    }
    loop {
        turn(mesh, ring);
        while let Some((_, message)) = mesh.receive() {
            count += 1;
            let end = message == END || (mesh.me() == 0 && start.elapsed() > TIME);
            mesh.try_send(other, if end { END } else { count }).expect("room");
            if end {
                mesh.ring_doorbells(ring);
                ring.enter(None);
                return count;
            }
        }
    }
}

fn flood(mesh: &mut Mesh<u64>, ring: &mut Ring) -> u64 {
    let start = Instant::now();
    let mut count = 0;
    loop {
        if mesh.me() == 0 {
            let end = start.elapsed() > TIME;
            for _ in 0..64 {
                if mesh.try_send(1, if end { END } else { count }).is_ok() {
                    count += 1;
                    if end {
                        mesh.ring_doorbells(ring);
                        ring.enter(None);
                        return count;
                    }
                }
            }
            mesh.ring_doorbells(ring);
            ring.enter(None);
            while let Some(cqe) = ring.next_completion() {
                mesh.on_completion(ring, cqe);
            }
        } else {
            turn(mesh, ring);
            let mut end = false;
            count += mesh.drain(512, |_, message| end |= message == END) as u64;
            if end {
                return count;
            }
        }
    }
}

fn turn(mesh: &mut Mesh<u64>, ring: &mut Ring) {
    mesh.ring_doorbells(ring);
    let wait = mesh.prepare_sleep().then_some(WAIT);
    ring.enter(wait);
    mesh.woke();
    while let Some(cqe) = ring.next_completion() {
        mesh.on_completion(ring, cqe);
    }
}

fn cpu() -> Duration {
    // SAFETY: fills a plain struct of numbers.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Duration::from_micros(micros(usage.ru_utime) + micros(usage.ru_stime))
}

fn pin(core: usize) {
    // SAFETY: a plain set of bits for a plain system call on this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}
