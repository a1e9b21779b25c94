//! What `h2` says has to be looked at again: the connection, or streams by number.
//! A waker must be one that could cross threads. These never do: the mutex is never waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

/// Of one connection.
#[derive(Default)]
pub(super) struct Ready {
    connection: AtomicBool,
    streams: Mutex<Vec<u32>>,
}

impl Ready {
    /// Whether the connection is to be polled again; asked once.
    pub(super) fn take_connection(&self) -> bool {
        self.connection.swap(false, Ordering::Relaxed)
    }

    /// Whether the connection is to be polled again.
    pub(super) fn connection(&self) -> bool {
        self.connection.load(Ordering::Relaxed)
    }

    /// Moves the numbers of the streams to be polled into `into`, each once.
    pub(super) fn take_streams(&self, into: &mut Vec<u32>) {
        into.append(&mut self.streams.lock().expect("nothing panics while it is held"));
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.connection.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.connection.store(true, Ordering::Relaxed);
    }
}

/// Of one stream.
pub(super) struct StreamWake {
    stream: u32,
    /// Its number is in the list already.
    listed: AtomicBool,
    ready: Arc<Ready>,
}

impl StreamWake {
    pub(super) fn new(stream: u32, ready: &Arc<Ready>) -> Arc<StreamWake> {
        Arc::new(StreamWake { stream, listed: AtomicBool::new(false), ready: Arc::clone(ready) })
    }

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// The stream is being polled: what happens from now on lists it again.
    pub(super) fn clear(&self) {
        self.listed.store(false, Ordering::Relaxed);
    }
}

impl Wake for StreamWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::Relaxed) {
            self.ready.streams.lock().expect("nothing panics while it is held").push(self.stream);
        }
    }
}
