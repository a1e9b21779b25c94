//! An event stream over HTTP/1.1 (§8.2, §10.7).

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::client::PATIENCE;

/// A stream that has begun.
pub(crate) struct Stream {
    lines: BufReader<Chunks>,
    line: Vec<u8>,
}

/// An event, or a heartbeat of kind `:`.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) data: Vec<u8>,
}

impl Stream {
    /// Opens it, or tells the status of the refusal.
    pub(crate) fn open(address: SocketAddr, target: &str) -> io::Result<Result<Stream, u16>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes())?;
        let mut reader = BufReader::with_capacity(4096, stream);
        let mut line = Vec::new();
        read_line(&mut reader, &mut line)?;
        let status = std::str::from_utf8(&line).ok().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        if status != 200 {
            return Ok(Err(status));
        }
        while !line.is_empty() {
            read_line(&mut reader, &mut line)?;
        }
        let chunks = Chunks { bytes: reader, left: 0, is_first: true };
        Ok(Ok(Stream { lines: BufReader::with_capacity(4096, chunks), line }))
    }

    /// The next event; none when the server has ended the stream.
    pub(crate) fn next(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event { kind: String::new(), data: Vec::new() };
        loop {
            self.line.clear();
            if self.lines.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            let line = self.line.strip_suffix(b"\n").ok_or(ErrorKind::UnexpectedEof)?;
            if line.starts_with(b":") {
                event.kind = ":".into();
            } else if let Some(kind) = line.strip_prefix(b"event: ") {
                event.kind = String::from_utf8_lossy(kind).into_owned();
            } else if let Some(data) = line.strip_prefix(b"data: ") {
                event.data = data.to_vec();
            } else if line.is_empty() && !event.kind.is_empty() {
                return Ok(Some(event));
            }
        }
    }
}

fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    line.clear();
    reader.read_until(b'\n', line)?;
    if !line.ends_with(b"\r\n") {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.len() - 2);
    Ok(())
}

/// A body in chunks.
struct Chunks {
    bytes: BufReader<TcpStream>,
    left: usize,
    is_first: bool,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut line = Vec::new();
            if !std::mem::take(&mut self.is_first) {
                read_line(&mut self.bytes, &mut line)?;
            }
            read_line(&mut self.bytes, &mut line)?;
            let size = std::str::from_utf8(&line).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
            self.left = size.unwrap_or_else(|| panic!("not the size of a chunk: {line:?}"));
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = out.len().min(self.left);
        let count = self.bytes.read(&mut out[..most])?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}
