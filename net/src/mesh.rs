//! Bounded messages between cores: a queue for each ordered pair, and a doorbell for cores that sleep.
//! Lives here: queues, fairness between senders, when a doorbell is rung. Not here: what a message
//! means, and what a refused one is answered with (429 or 503: nothing waits for room).
//!
//! One turn of a core's loop:
//! ```text
//! mesh.ring_doorbells(ring)                        // for everything sent in this turn
//! let wait = if mesh.prepare_sleep() { Some(time) } else { None };
//! ring.enter(wait)
//! mesh.woke()
//! completions with owner mesh::OWNER → mesh.on_completion(ring, cqe)
//! mesh.drain(MESH_PER_TURN_MAX, |from, message| ..)  // every turn: a busy core is never rung
//! ```
//! Between `woke` and the next `prepare_sleep` no one rings.

use crate::limits::MESH_DEPTH;
use rtrb::{Consumer, Producer, RingBuffer};
use runelog_engine::disk::ring::{Cqe, Ring};
use std::io;
use std::sync::Arc;

mod doorbell;
mod sleep;

use doorbell::Doorbell;
use sleep::Sleep;

pub use doorbell::{OWNER, Wake};

/// What every core knows of one core.
struct Core {
    sleep: Sleep,
    doorbell: Doorbell,
}

/// Counters of one core's end, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Messages sent.
    pub sent: u64,
    /// Messages given back because the queue was full.
    pub refused: u64,
    /// Doorbells rung.
    pub rung: u64,
}

/// One core's end of the mesh.
pub struct Mesh<M> {
    me: usize,
    cores: Arc<[Core]>,
    /// By target; `None` at `me`.
    outgoing: Vec<Option<Producer<M>>>,
    /// By source; `None` at `me`.
    incoming: Vec<Option<Consumer<M>>>,
    /// Targets sent to since the doorbells were last rung.
    unrung: Vec<usize>,
    /// The source to be asked first.
    turn: usize,
    counters: Counters,
}

/// The ends of a mesh of `cores` cores, to be moved one to each core's thread, with the default depth
/// and doorbell.
pub fn connect<M: Send>(cores: usize) -> io::Result<Vec<Mesh<M>>> {
    connect_with(cores, MESH_DEPTH, Wake::default())
}

/// Like [`connect`], with `depth` messages a pair at most and a chosen doorbell.
pub fn connect_with<M: Send>(cores: usize, depth: usize, wake: Wake) -> io::Result<Vec<Mesh<M>>> {
    let known: io::Result<Vec<Core>> =
        (0..cores).map(|_| Ok(Core { sleep: Sleep::default(), doorbell: Doorbell::new(wake)? })).collect();
    let known: Arc<[Core]> = known?.into();
    let mut ends: Vec<Mesh<M>> = (0..cores)
        .map(|me| Mesh {
            me,
            cores: known.clone(),
            outgoing: (0..cores).map(|_| None).collect(),
            incoming: (0..cores).map(|_| None).collect(),
            unrung: Vec::with_capacity(cores),
            turn: 0,
            counters: Counters::default(),
        })
        .collect();
    for from in 0..cores {
        for to in (0..cores).filter(|to| *to != from) {
            let (producer, consumer) = RingBuffer::new(depth);
            ends[from].outgoing[to] = Some(producer);
            ends[to].incoming[from] = Some(consumer);
        }
    }
    Ok(ends)
}

impl<M: Send> Mesh<M> {
    /// Makes this core's ring hear its doorbell. Once, on the core's own thread, before it sleeps.
    pub fn attach(&mut self, ring: &mut Ring) {
        self.cores[self.me].doorbell.attach(ring);
    }

    /// This core's number.
    pub fn me(&self) -> usize {
        self.me
    }

    /// Cores in the mesh.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// See [`Counters`].
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Messages that wait at the moment for `to` to take them from this core.
    pub fn depth(&self, to: usize) -> usize {
        self.outgoing[to].as_ref().map_or(0, |queue| queue.buffer().capacity() - queue.slots())
    }

    /// Queues a message for another core, which hears of it at [`Mesh::ring_doorbells`]. Full: the
    /// message comes back.
    pub fn try_send(&mut self, to: usize, message: M) -> Result<(), M> {
        assert_ne!(to, self.me, "a core does not send to itself");
        let queue = self.outgoing[to].as_mut().expect("a queue to every other core");
        if let Err(rtrb::PushError::Full(message)) = queue.push(message) {
            self.counters.refused += 1;
            return Err(message);
        }
        self.counters.sent += 1;
        if !self.unrung.contains(&to) {
            self.unrung.push(to);
        }
        Ok(())
    }

    /// Wakes those cores that were sent something and sleep. Once a turn, before `ring.enter`, which
    /// carries the doorbells out.
    pub fn ring_doorbells(&mut self, ring: &mut Ring) {
        if self.unrung.is_empty() {
            return;
        }
        sleep::publish();
        for to in self.unrung.drain(..) {
            let target = &self.cores[to];
            if target.sleep.must_wake() {
                target.doorbell.ring(ring, to);
                self.counters.rung += 1;
            }
        }
    }

    /// Says that this core is about to wait. False when a message is there already: then it must not,
    /// and it counts as awake.
    pub fn prepare_sleep(&mut self) -> bool {
        let sleep = &self.cores[self.me].sleep;
        sleep.announce();
        if self.incoming.iter().flatten().all(Consumer::is_empty) {
            return true;
        }
        sleep.woke();
        false
    }

    /// Says that this core is awake and will look at its queues before it sleeps again.
    pub fn woke(&mut self) {
        self.cores[self.me].sleep.woke();
    }

    /// Takes in a completion whose owner is [`OWNER`]: someone rang, or ringing failed.
    pub fn on_completion(&mut self, ring: &mut Ring, cqe: Cqe) {
        doorbell::on_completion(&self.cores, self.me, ring, cqe);
    }

    /// The next message and its sender, each source in turn.
    pub fn receive(&mut self) -> Option<(usize, M)> {
        for _ in 0..self.incoming.len() {
            let from = self.turn;
            self.turn = (from + 1) % self.incoming.len();
            if let Some(queue) = &mut self.incoming[from]
                && let Ok(message) = queue.pop()
            {
                return Some((from, message));
            }
        }
        None
    }

    /// Takes up to `max` messages; returns how many. `max` of them: there may be more, do not sleep
    /// ([`Mesh::prepare_sleep`] sees to that).
    pub fn drain(&mut self, max: usize, mut take: impl FnMut(usize, M)) -> usize {
        for taken in 0..max {
            let Some((from, message)) = self.receive() else { return taken };
            take(from, message);
        }
        max
    }
}

impl<M> Drop for Mesh<M> {
    /// The core's ring ends with it, and its descriptor's number may soon be someone else's.
    fn drop(&mut self) {
        self.cores[self.me].doorbell.detach();
    }
}

impl doorbell::Doorbells for Arc<[Core]> {
    fn doorbell(&self, core: usize) -> &Doorbell {
        &self[core].doorbell
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_full_queue_gives_the_message_back_and_keeps_the_order() {
        let mut ends = connect_with::<u32>(2, 4, Wake::Eventfd).unwrap();
        let (first, second) = ends.split_at_mut(1);
        let (a, b) = (&mut first[0], &mut second[0]);
        let refused: Vec<u32> = (0..6).filter_map(|message| a.try_send(1, message).err()).collect();
        assert_eq!((refused, a.depth(1), a.counters().refused), (vec![4, 5], 4, 2));
        let mut taken = Vec::new();
        assert_eq!(b.drain(3, |from, message| taken.push((from, message))), 3);
        assert_eq!(taken, [(0, 0), (0, 1), (0, 2)]);
        assert!(!b.prepare_sleep(), "one is left");
        assert_eq!(b.receive(), Some((0, 3)));
        assert!(b.prepare_sleep());
    }

    #[test]
    fn sources_are_served_in_turn() {
        let mut ends = connect_with::<u32>(3, 8, Wake::Eventfd).unwrap();
        for from in [0, 1] {
            for message in 0..3 {
                ends[from].try_send(2, message).unwrap();
            }
        }
        let mut order = Vec::new();
        ends[2].drain(10, |from, message| order.push((from, message)));
        assert_eq!(order, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn a_ring_that_takes_no_messages_is_woken_by_its_eventfd() {
        let mut ends = connect_with::<u32>(2, 4, Wake::MsgRing).unwrap();
        let (first, second) = ends.split_at_mut(1);
        let (a, b) = (&mut first[0], &mut second[0]);
        let (mut ring_a, mut ring_b) = (Ring::new(8).unwrap(), Ring::new(8).unwrap());
        b.attach(&mut ring_b);
        b.cores[1].doorbell.pretend_no_messages();
        assert!(b.prepare_sleep());
        a.try_send(1, 7).unwrap();
        a.ring_doorbells(&mut ring_a);
        ring_a.enter(Some(Duration::from_secs(10)));
        let failed = ring_a.next_completion().expect("the message was refused");
        assert!(failed.result < 0 && ring_b.next_completion().is_none());
        a.on_completion(&mut ring_a, failed);
        ring_b.enter(Some(Duration::from_secs(10)));
        assert_eq!(ring_b.next_completion().expect("woken").owner(), OWNER);
        assert_eq!(b.receive(), Some((0, 7)));
    }

    #[test]
    fn no_wake_up_is_lost_under_stress() {
        for wake in [Wake::Eventfd, Wake::MsgRing] {
            for tokens in [1, 2, 5] {
                assert_eq!(circle(wake, tokens), 0, "{wake:?}, {tokens} tokens: lost");
            }
        }
    }

    const CORES: usize = 3;
    const HOPS: u64 = 9_000;

    /// Sends tokens round the cores, each of which sleeps whenever it has none; returns how often one
    /// slept through a message until its time was over.
    fn circle(wake: Wake, tokens: usize) -> u32 {
        let mut ends = connect_with::<u64>(CORES, 16, wake).unwrap();
        (0..tokens).for_each(|_| ends[0].try_send(1, 1).unwrap());
        let threads: Vec<_> =
            ends.into_iter().map(|mesh| std::thread::spawn(move || pass_on(mesh, tokens))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }

    fn pass_on(mut mesh: Mesh<u64>, tokens: usize) -> u32 {
        let mut ring = Ring::new(64).unwrap();
        mesh.attach(&mut ring);
        let (mut ended, mut lost) = (0, 0);
        while ended < tokens {
            mesh.ring_doorbells(&mut ring);
            let asleep = mesh.prepare_sleep();
            ring.enter(asleep.then_some(Duration::from_secs(10)));
            mesh.woke();
            let mut woken = !asleep;
            while let Some(cqe) = ring.next_completion() {
                mesh.on_completion(&mut ring, cqe);
                woken = true;
            }
            while let Some((_, hop)) = mesh.receive() {
                lost += u32::from(!woken);
                ended += usize::from(hop + CORES as u64 > HOPS);
                if hop < HOPS {
                    mesh.try_send((mesh.me() + 1) % CORES, hop + 1).unwrap();
                }
            }
        }
        mesh.ring_doorbells(&mut ring);
        ring.enter(None);
        lost
    }
}
