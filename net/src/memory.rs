//! Memory for log chunks, found by a thread beside the cores: the kernel clears it, and below a hypervisor the
//! host may have to find it first, for up to ten milliseconds a chunk. A core asks before it needs one, never
//! waits, and makes one itself when it has to.

use crate::sys;
use runelog_engine::mem::ChunkPages;
use runelog_engine::shard::Shard;
use std::sync::mpsc::{self, Receiver, SyncSender};

/// Asked for and not taken yet, of one core, at most.
const ASKED_MAX: usize = 8;

/// A core's end.
pub(crate) struct Supply {
    core: usize,
    asks: SyncSender<usize>,
    made: Receiver<ChunkPages>,
    asked: usize,
}

/// Starts the thread; it ends with the last of the ends that it returns, one for each core.
pub(crate) fn start(cores: usize) -> std::io::Result<Vec<Supply>> {
    let (asks, asked) = mpsc::sync_channel(cores * ASKED_MAX);
    let (to, ends): (Vec<_>, Vec<_>) = (0..cores)
        .map(|core| {
            let (give, made) = mpsc::sync_channel(ASKED_MAX);
            (give, Supply { core, asks: asks.clone(), made, asked: 0 })
        })
        .unzip();
    std::thread::Builder::new().name("runelog-memory".into()).spawn(move || make(&asked, &to))?;
    Ok(ends)
}

fn make(asked: &Receiver<usize>, to: &[SyncSender<ChunkPages>]) {
    // Whatever a core has to do goes first; a core that leaves no time makes its chunks itself.
    sys::yield_to_everybody();
    while let Ok(core) = asked.recv() {
        // A core that is gone wants none any more.
        let _ = to[core].try_send(ChunkPages::touched());
    }
}

impl Supply {
    /// Once a turn: hands over what was made, asks for what is wanted.
    pub(crate) fn turn(&mut self, shard: &mut Shard) {
        while self.asked > 0
            && let Ok(pages) = self.made.try_recv()
        {
            self.asked -= 1;
            shard.add_chunk(pages);
        }
        while self.asked < shard.chunks_wanted().min(ASKED_MAX) && self.asks.try_send(self.core).is_ok() {
            self.asked += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_core_gets_what_it_asked_for_and_the_thread_ends_with_them() {
        let mut ends = start(2).expect("a thread");
        for end in &ends {
            for _ in 0..ASKED_MAX {
                end.asks.try_send(end.core).expect("room for all that may be asked");
            }
        }
        for end in &ends {
            for _ in 0..ASKED_MAX {
                drop(end.made.recv_timeout(Duration::from_secs(30)).expect("made"));
            }
        }
        let last = ends.pop().expect("two");
        drop(ends);
        last.asks.try_send(last.core).expect("the thread goes on for the other core");
        let Supply { asks, made, .. } = last;
        drop(made.recv_timeout(Duration::from_secs(30)).expect("made"));
        drop(asks);
        assert_eq!(
            made.recv_timeout(Duration::from_secs(30)).err(),
            Some(mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
