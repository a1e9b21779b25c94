//! Bytes to messages and back, by `tungstenite` over memory.
//! Always true: whatever `tungstenite` wants to send is in the output when a call returns, so frames
//! written here never get between its own.

use crate::limits::{WS_FRAME_BYTES_MAX, WS_MESSAGE_BYTES_MAX, WS_READ_BUFFER_BYTES};
use std::io::{self, Cursor, Read, Write};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message, Utf8Bytes};

/// What the client said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A whole text message.
    Text(Utf8Bytes),
    /// A whole binary message, which nobody wants (WS-4).
    Binary,
    /// Nothing follows: close the connection when everything is sent.
    End,
}

/// The frames of one connection.
pub(crate) struct Framing {
    socket: WebSocket<Memory>,
    ended: bool,
    /// Bytes that came since the last whole message.
    partial_bytes: usize,
}

impl Framing {
    pub(crate) fn new() -> Framing {
        let config = WebSocketConfig::default()
            .read_buffer_size(WS_READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_frame_size(Some(WS_FRAME_BYTES_MAX))
            .max_message_size(Some(WS_MESSAGE_BYTES_MAX))
            .accept_unmasked_frames(false);
        let socket = WebSocket::from_raw_socket(Memory::default(), Role::Server, Some(config));
        Framing { socket, ended: false, partial_bytes: 0 }
    }

    /// Takes received bytes; [`Framing::next`] follows.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.partial_bytes += bytes.len();
        self.socket.get_mut().input.extend_from_slice(bytes);
    }

    /// The next message, if it is whole. Pings and closes are answered on the way (WS-6).
    pub(crate) fn next(&mut self, out: &mut Vec<u8>) -> Option<Incoming> {
        if self.ended {
            return Some(Incoming::End);
        }
        self.swap_output(out);
        let incoming = self.read();
        self.swap_output(out);
        if incoming.is_some() {
            self.partial_bytes = self.socket.get_ref().left().len();
        }
        incoming
    }

    fn read(&mut self) -> Option<Incoming> {
        loop {
            let code = match self.socket.read() {
                Ok(Message::Text(text)) => return Some(Incoming::Text(text)),
                Ok(Message::Binary(_)) => return Some(Incoming::Binary),
                Ok(_) => continue, // what it answers goes out with the next call
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(Error::Protocol(_)) => Some(CloseCode::Protocol),
                Err(Error::Utf8(_)) => Some(CloseCode::Invalid),
                Err(Error::Capacity(_)) => Some(CloseCode::Size),
                Err(_) => None, // the close handshake is through
            };
            if let Some(code) = code {
                self.close_with(code);
            }
            self.ended = true;
            return Some(Incoming::End);
        }
    }

    /// Whether messages may still be sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.ended && self.socket.can_write()
    }

    /// Says that the server goes away. What the client says until it answers is still read.
    pub(crate) fn close_away(&mut self, out: &mut Vec<u8>) {
        self.swap_output(out);
        self.close_with(CloseCode::Away);
        self.swap_output(out);
    }

    /// Says that there is no room for this connection now.
    pub(crate) fn close_again(&mut self, out: &mut Vec<u8>) {
        self.swap_output(out);
        self.close_with(CloseCode::Again);
        self.swap_output(out);
    }

    /// An error here is a close that is under way already.
    fn close_with(&mut self, code: CloseCode) {
        let _ = self.socket.close(Some(CloseFrame { code, reason: Utf8Bytes::default() }));
    }

    /// Received bytes of whole frames that were not read yet.
    pub(crate) fn kept_bytes(&self) -> usize {
        let memory = self.socket.get_ref();
        if memory.whole_frame_bytes() == 0 { 0 } else { memory.left().len() }
    }

    /// Bytes held for a message that is not whole, or not read.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.partial_bytes
    }

    fn swap_output(&mut self, out: &mut Vec<u8>) {
        std::mem::swap(out, &mut self.socket.get_mut().output);
    }
}

/// Appends a text message made of the given parts, while [`Framing::is_open`].
pub(crate) fn push_text(parts: &[&[u8]], out: &mut Vec<u8>) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    header.format(bytes as u64, out).expect("memory takes everything");
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The socket as `tungstenite` sees it. It reads a frame only when that is whole: else it would make room for
/// whatever length a client announces.
#[derive(Default)]
struct Memory {
    input: Vec<u8>,
    input_at: usize,
    /// Of the frame that is being read.
    frame_left: usize,
    /// The connection's own output, lent for the time of a call.
    output: Vec<u8>,
}

impl Memory {
    fn left(&self) -> &[u8] {
        &self.input[self.input_at..]
    }

    /// Bytes of the next frame with its header, 0 if it is not whole.
    fn whole_frame_bytes(&self) -> usize {
        if self.frame_left > 0 {
            return self.frame_left;
        }
        let mut header = Cursor::new(self.left());
        match FrameHeader::parse(&mut header) {
            Ok(None) => 0,
            // Its header is enough to refuse it.
            Ok(Some((_, bytes))) if bytes > WS_FRAME_BYTES_MAX as u64 => header.position() as usize,
            Ok(Some((_, bytes))) => {
                let bytes = header.position() as usize + bytes as usize;
                if bytes <= self.left().len() { bytes } else { 0 }
            }
            Err(_) => self.left().len(), // to be refused as well
        }
    }
}

impl Read for Memory {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.frame_left = self.whole_frame_bytes();
        if self.frame_left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = self.frame_left.min(into.len());
        into[..bytes].copy_from_slice(&self.left()[..bytes]);
        self.frame_left -= bytes;
        self.input_at += bytes;
        if self.input_at == self.input.len() {
            self.input_at = 0;
            self.input.clear();
            self.input.shrink_to(WS_READ_BUFFER_BYTES);
        } else if self.frame_left == 0 && self.input_at > self.input.len() / 2 {
            self.input.drain(..self.input_at); // never more than what was read
            self.input_at = 0;
        }
        Ok(bytes)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
