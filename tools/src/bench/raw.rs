//! The ceiling: servers that do nothing but what no server can avoid, for the same load. `echo` receives so
//! many bytes and sends an answer that was recorded; `log` appends what it received to a file first, as it
//! is, synced or not. No parsing, no topics, no memory of anything. Lives here: their loop. Not here: when
//! they run and what they are compared with (`ceiling`).
//! Shares nothing with the daemon but the thin wrapper of the ring: what makes the daemon faster must not
//! raise its ceiling.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use io_uring::{opcode, types};
use runelog_engine::disk::ring::Ring;

use super::raw_log::RawLog;
use super::server::pin;

/// Receives that wait for bytes arm a poll at once, without trying first: right after an answer nothing is there.
const POLL_FIRST: u16 = 1; // IORING_RECVSEND_POLL_FIRST
/// What a completion is of: the low bits of its user data.
const RECEIVED: u64 = 0;
const SENT: u64 = 1;
pub(super) const WRITTEN: u64 = 2;
pub(super) const KIND_BITS: u32 = 2;

/// The command line of the process; not for people.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RawArgs {
    /// Bytes of each request
    #[arg(long)]
    request_bytes: usize,
    /// File with the answer
    #[arg(long)]
    answer: PathBuf,
    /// File that gets host:port
    #[arg(long)]
    port_file: PathBuf,
    /// File to append requests to; without it they are only answered
    #[arg(long)]
    log: Option<PathBuf>,
    /// Sync what is appended before the answer
    #[arg(long)]
    sync: bool,
    /// One thread for each
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
}

struct Conn {
    stream: TcpStream,
    request: Vec<u8>,
    /// Of the request, and of the answer.
    received: usize,
    sent: usize,
}

struct Raw {
    ring: Ring,
    conns: Vec<Conn>,
    answer: Vec<u8>,
    log: Option<RawLog>,
}

/// Serves until the process is ended.
pub(crate) fn run(args: &RawArgs) -> Result<(), String> {
    serve(args).map_err(|error| format!("raw server: {error}"))
}

fn serve(args: &RawArgs) -> io::Result<()> {
    let answer = fs::read(&args.answer)?;
    let mut threads: Vec<Sender<TcpStream>> = Vec::new();
    for (index, cpu) in args.cpus.iter().copied().enumerate() {
        let (sender, incoming) = channel();
        threads.push(sender);
        let (answer, sync, request_bytes) = (answer.clone(), args.sync, args.request_bytes);
        let log = args.log.as_ref().map(|path| path.with_extension(index.to_string()));
        std::thread::spawn(move || {
            let loops = || -> io::Result<()> {
                pin(&[cpu])?;
                let ring = Ring::new(4096)?;
                let log = log.map(|path| RawLog::create(&path, sync)).transpose()?;
                let mut raw = Raw { ring, conns: Vec::new(), answer, log };
                loop {
                    raw.turn(&incoming, request_bytes)?;
                }
            };
            // A thread that is gone would look like a slow server.
            if let Err(error) = loops() {
                eprintln!("raw server: {error}");
                std::process::exit(1);
            }
        });
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let aside = args.port_file.with_extension("new");
    fs::write(&aside, listener.local_addr()?.to_string())?;
    fs::rename(aside, &args.port_file)?;
    for (index, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        let gone = |_| io::Error::other("a thread is gone");
        threads[index % threads.len()].send(stream).map_err(gone)?;
    }
    Ok(())
}

impl Raw {
    fn turn(&mut self, incoming: &Receiver<TcpStream>, request_bytes: usize) -> io::Result<()> {
        for stream in incoming.try_iter() {
            self.conns.push(Conn { stream, request: vec![0; request_bytes], received: 0, sent: 0 });
            self.receive(self.conns.len() - 1);
        }
        if let Some(log) = &mut self.log {
            log.flush(&mut self.ring);
        }
        self.ring.enter(Some(Duration::from_millis(10)));
        while let Some(cqe) = self.ring.next_completion() {
            let index = (cqe.user_data >> KIND_BITS) as usize;
            match cqe.user_data & ((1 << KIND_BITS) - 1) {
                RECEIVED => self.received(index, cqe.result)?,
                SENT => {
                    let conn = &mut self.conns[index];
                    conn.sent += cqe.result.max(0) as usize;
                    // A client that is gone needs no rest of its answer; its receive says so, too.
                    if cqe.result > 0 && conn.sent < self.answer.len() {
                        self.send(index);
                    }
                }
                _ => {
                    let log = self.log.as_mut().expect("writes of a log");
                    let waiting = log.written(index, cqe.result)?;
                    for conn in waiting {
                        self.answer(conn);
                    }
                }
            }
        }
        Ok(())
    }

    fn received(&mut self, index: usize, result: i32) -> io::Result<()> {
        let conn = &mut self.conns[index];
        if result <= 0 {
            // The client is gone; its place stays empty until the process ends with the point.
            return Ok(());
        }
        conn.received += result as usize;
        if conn.received < conn.request.len() {
            self.receive(index);
            return Ok(());
        }
        conn.received = 0;
        match &mut self.log {
            Some(log) => log.append(&conn.request, index),
            None => self.answer(index),
        }
        Ok(())
    }

    /// Sends the answer and waits for the next request.
    fn answer(&mut self, index: usize) {
        self.conns[index].sent = 0;
        self.send(index);
        self.receive(index);
    }

    fn receive(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let room = &mut conn.request[conn.received..];
        let entry =
            opcode::Recv::new(types::Fd(conn.stream.as_raw_fd()), room.as_mut_ptr(), room.len() as u32)
                .flags(libc::MSG_WAITALL)
                .ioprio(POLL_FIRST)
                .build()
                .user_data((index as u64) << KIND_BITS | RECEIVED);
        // SAFETY: the request's memory lives as long as the process, is never moved or resized, and is not
        // looked at before this completion.
        unsafe { self.ring.push(&entry) };
    }

    fn send(&mut self, index: usize) {
        let conn = &self.conns[index];
        let rest = &self.answer[conn.sent..];
        let entry = opcode::Send::new(types::Fd(conn.stream.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
            .build()
            .user_data((index as u64) << KIND_BITS | SENT);
        // SAFETY: the answer never changes and lives as long as the process.
        unsafe { self.ring.push(&entry) };
    }
}

/// What waits for a block of a log: connections, in the order in which their requests came.
pub(super) type Waiting = VecDeque<usize>;
