//! What goes into the ring for sockets: `user_data` and the entries.
//!
//! `user_data`, from the high bits down: owner 8, operation 4, generation 28, index 24.

use super::ConnId;
use super::buffers::GROUP;
use io_uring::{opcode, types::CancelBuilder, types::Fd};
use runelog_engine::disk::ring::{OWNER_FREE, OWNER_SHIFT, Ring};

/// Owner byte of socket completions.
pub const OWNER: u64 = OWNER_FREE;

const OP_SHIFT: u32 = 52;
const GENERATION_SHIFT: u32 = 24;
pub(super) const GENERATION_MASK: u32 = (1 << 28) - 1;
const INDEX_MASK: u64 = (1 << 24) - 1;

/// What a completion answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Accept = 1,
    Recv = 2,
    Send = 3,
    /// A cancellation, or nothing at all, of which only the end matters.
    Step = 4,
    AcceptCancel = 5,
}

pub(super) fn encode(op: Op, id: ConnId) -> u64 {
    OWNER << OWNER_SHIFT
        | (op as u64) << OP_SHIFT
        | u64::from(id.generation) << GENERATION_SHIFT
        | u64::from(id.index)
}

pub(super) fn decode(user_data: u64) -> (Op, ConnId) {
    let op = match (user_data >> OP_SHIFT) & 0xf {
        1 => Op::Accept,
        2 => Op::Recv,
        3 => Op::Send,
        4 => Op::Step,
        5 => Op::AcceptCancel,
        other => unreachable!("operation {other} was never submitted"),
    };
    let generation = (user_data >> GENERATION_SHIFT) as u32 & GENERATION_MASK;
    (op, ConnId { index: (user_data & INDEX_MASK) as u32, generation })
}

pub(super) fn accept(ring: &mut Ring, fd: i32, id: ConnId) {
    let entry = opcode::AcceptMulti::new(Fd(fd)).flags(libc::SOCK_CLOEXEC).build();
    // SAFETY: points to no memory.
    unsafe { ring.push(&entry.user_data(encode(Op::Accept, id))) };
}

/// Multishot: one entry brings every arrival until a completion without `IORING_CQE_F_MORE`.
pub(super) fn recv(ring: &mut Ring, fd: i32, id: ConnId) {
    let entry = opcode::RecvMulti::new(Fd(fd), GROUP).build();
    // SAFETY: points to no memory of its own; the group's memory outlives it (`buffers`).
    unsafe { ring.push(&entry.user_data(encode(Op::Recv, id))) };
}

/// # Safety
/// `bytes` must stay valid and unchanged until the completion was collected.
pub(super) unsafe fn send(ring: &mut Ring, fd: i32, id: ConnId, bytes: &[u8]) {
    // WAITALL: the kernel continues a partial send by itself, without a round through this loop.
    let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    let entry = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
    // SAFETY: passed on to the caller.
    unsafe { ring.push(&entry.user_data(encode(Op::Send, id))) };
}

/// Cancels `op` of `id`. By `user_data`, which the kernel finds by hash; by descriptor it would look
/// at every armed receive of the core.
pub(super) fn cancel(ring: &mut Ring, op: Op, id: ConnId) {
    let answer = if op == Op::Accept { Op::AcceptCancel } else { Op::Step };
    let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(encode(op, id))).build();
    // SAFETY: points to no memory.
    unsafe { ring.push(&entry.user_data(encode(answer, id))) };
}

/// A completion of [`Op::Step`] for a connection that has nothing else to wait for.
pub(super) fn step(ring: &mut Ring, id: ConnId) {
    // SAFETY: points to no memory.
    unsafe { ring.push(&opcode::Nop::new().build().user_data(encode(Op::Step, id))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_keeps_operation_and_id() {
        for op in [Op::Accept, Op::Recv, Op::Send, Op::Step, Op::AcceptCancel] {
            for (index, generation) in [(0, 0), ((1 << 24) - 1, GENERATION_MASK), (77, 99)] {
                let id = ConnId { index, generation };
                assert_eq!(decode(encode(op, id)), (op, id));
                assert_eq!(encode(op, id) >> OWNER_SHIFT, OWNER);
            }
        }
    }
}
