//! The socket as `h2` sees it: bytes in memory, read and written without ever waiting.
//! Nothing is woken from here: whoever brings bytes or makes room polls again afterwards.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Kept input above this is given back to the allocator once it was read.
const INPUT_KEPT_BYTES: usize = 64 << 10;

struct Bytes {
    input: Vec<u8>,
    input_at: usize,
    ended: bool,
    /// The socket's own output, lent while the connection is driven.
    output: Vec<u8>,
    /// No more is written while the output holds this much.
    output_bytes_max: usize,
}

/// One end for `h2`, one for its driver: clones share the bytes.
#[derive(Clone)]
pub(super) struct Pipe(Rc<RefCell<Bytes>>);

impl Pipe {
    pub(super) fn new(output_bytes_max: usize) -> Pipe {
        Pipe(Rc::new(RefCell::new(Bytes {
            input: Vec::new(),
            input_at: 0,
            ended: false,
            output: Vec::new(),
            output_bytes_max,
        })))
    }

    /// Bytes that the client sent.
    pub(super) fn push(&self, bytes: &[u8]) {
        self.0.borrow_mut().input.extend_from_slice(bytes);
    }

    /// The client sends nothing more.
    pub(super) fn end(&self) {
        self.0.borrow_mut().ended = true;
    }

    /// Bytes that `h2` did not read yet.
    pub(super) fn kept_bytes(&self) -> usize {
        let bytes = self.0.borrow();
        bytes.input.len() - bytes.input_at
    }

    /// Lends the output, or takes it back: what is written goes behind what it holds.
    pub(super) fn swap_output(&self, out: &mut Vec<u8>) {
        std::mem::swap(out, &mut self.0.borrow_mut().output);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = self.0.borrow_mut();
        let left = bytes.input.len() - bytes.input_at;
        if left == 0 {
            return if bytes.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let take = left.min(into.remaining());
        into.put_slice(&bytes.input[bytes.input_at..bytes.input_at + take]);
        bytes.input_at += take;
        if take == left {
            bytes.input_at = 0;
            bytes.input.clear();
            bytes.input.shrink_to(INPUT_KEPT_BYTES);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// All or nothing: what `h2` writes at once is one frame or a few small ones.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut bytes = self.0.borrow_mut();
        if bytes.output.len() >= bytes.output_bytes_max {
            return Poll::Pending;
        }
        slices.iter().for_each(|slice| bytes.output.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    /// Frames whose payload is not small are then not copied on their way here.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
