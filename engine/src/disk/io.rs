//! The engine's side of a [`Disk`](super::Disk): a queue of operations going out, futures for those
//! who wait for them, and the tiny executor that runs background jobs. Single-threaded and without a
//! clock, so the order of everything follows from the order of completions.

use super::{Done, FileId, Op, OpenMode, Tag};
use crate::error::DiskError;
use crate::mem::{AlignedBuf, Chunk};
use ahash::AHashMap;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A handle to one shard's operation queue. Clones share the queue.
#[derive(Clone, Default)]
pub struct Io(Rc<RefCell<Queue>>);

#[derive(Default)]
struct Queue {
    next_tag: u64,
    outgoing: Vec<(Tag, Op)>,
    /// Operations a future waits for; `Some` once completed.
    awaited: AHashMap<Tag, Option<Done>>,
}

impl Io {
    /// Queues an operation whose completion the caller will recognise by its tag.
    pub fn submit(&self, op: Op) -> Tag {
        let mut queue = self.0.borrow_mut();
        let tag = Tag(queue.next_tag);
        queue.next_tag += 1;
        queue.outgoing.push((tag, op));
        tag
    }

    /// Moves queued operations into `out`, oldest first.
    pub fn take_outgoing(&self, out: &mut Vec<(Tag, Op)>) {
        out.append(&mut self.0.borrow_mut().outgoing);
    }

    /// Whether operations are queued.
    pub fn has_outgoing(&self) -> bool {
        !self.0.borrow().outgoing.is_empty()
    }

    /// Takes a completion if a future waits for it (then [`Jobs::run`] should follow), otherwise
    /// gives it back.
    pub fn complete(&self, done: Done) -> Result<(), Done> {
        match self.0.borrow_mut().awaited.get_mut(&done.tag) {
            Some(slot) => {
                *slot = Some(done);
                Ok(())
            }
            None => Err(done),
        }
    }

    /// Queues an operation and waits for its completion.
    pub fn run(&self, op: Op) -> impl Future<Output = Done> + use<> {
        let tag = self.submit(op);
        self.0.borrow_mut().awaited.insert(tag, None);
        Completion { io: self.clone(), tag }
    }

    /// Opens a file.
    pub async fn open(&self, path: &str, mode: OpenMode) -> Result<FileId, DiskError> {
        let done = self.run(Op::Open { path: path.to_owned(), mode }).await;
        done.result.map(|id| FileId(id as u32))
    }

    /// Closes a file; errors of a close carry no news (everything that matters was synced).
    pub async fn close(&self, file: FileId) {
        let _ = self.run(Op::Close { file }).await;
    }

    /// Reads into `buf`; returns it and the bytes read.
    pub async fn read(
        &self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
    ) -> Result<(AlignedBuf, usize), DiskError> {
        let done = self.run(Op::Read { file, offset, buf }).await;
        let bytes = done.result?;
        Ok((done.buf.expect("a read gives its buffer back"), bytes as usize))
    }

    /// Reads into a chunk at recovery; returns the bytes read.
    pub async fn read_chunk(
        &self,
        file: FileId,
        offset: u64,
        chunk: Chunk,
        len: u32,
    ) -> Result<usize, DiskError> {
        Ok(self.run(Op::ReadChunk { file, offset, chunk, len }).await.result? as usize)
    }

    /// Writes the first `len` bytes of `buf`; returns it.
    pub async fn write(
        &self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> Result<AlignedBuf, DiskError> {
        let done = self.run(Op::Write { file, offset, buf, len: len as u32 }).await;
        done.result?;
        Ok(done.buf.expect("a write gives its buffer back"))
    }

    /// Makes the file's writes durable.
    pub async fn sync(&self, file: FileId) -> Result<(), DiskError> {
        self.run(Op::Sync { file }).await.result.map(drop)
    }

    /// Makes the directory's entries durable.
    pub async fn sync_dir(&self, path: &str) -> Result<(), DiskError> {
        self.run(Op::SyncDir { path: path.to_owned() }).await.result.map(drop)
    }

    /// Renames a file over another.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.run(Op::Rename { from: from.to_owned(), to: to.to_owned() }).await.result.map(drop)
    }

    /// Removes a file.
    pub async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.run(Op::Remove { path: path.to_owned() }).await.result.map(drop)
    }

    /// Reserves space.
    pub async fn allocate(&self, file: FileId, bytes: u64) -> Result<(), DiskError> {
        self.run(Op::Allocate { file, bytes }).await.result.map(drop)
    }

    /// Creates a directory.
    pub async fn make_dir(&self, path: &str) -> Result<(), DiskError> {
        self.run(Op::MakeDir { path: path.to_owned() }).await.result.map(drop)
    }

    /// Removes an empty directory.
    pub async fn remove_dir(&self, path: &str) -> Result<(), DiskError> {
        self.run(Op::RemoveDir { path: path.to_owned() }).await.result.map(drop)
    }

    /// Lists a directory, sorted by name; an absent one is empty.
    pub async fn list(&self, path: &str) -> Result<Vec<(String, u64)>, DiskError> {
        sorted_names(self.run(Op::List { path: path.to_owned() }).await)
    }

    /// Lists the directories in a directory, sorted by name; an absent one is empty.
    pub async fn list_dirs(&self, path: &str) -> Result<Vec<String>, DiskError> {
        let names = sorted_names(self.run(Op::ListDirs { path: path.to_owned() }).await)?;
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }
}

fn sorted_names(mut done: Done) -> Result<Vec<(String, u64)>, DiskError> {
    match done.result {
        Ok(_) => {
            done.names.sort();
            Ok(done.names)
        }
        Err(DiskError(libc::ENOENT)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

struct Completion {
    io: Io,
    tag: Tag,
}

impl Future for Completion {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Done> {
        let mut queue = self.io.0.borrow_mut();
        match queue.awaited.get_mut(&self.tag).expect("polled once after completion").take() {
            Some(done) => {
                queue.awaited.remove(&self.tag);
                Poll::Ready(done)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        // A job that is dropped early leaves its completion to be ignored.
        self.io.0.borrow_mut().awaited.remove(&self.tag);
    }
}

/// Gives the core back to its other work: a job that has done a bounded piece of computation awaits
/// this, and goes on at the next [`Jobs::run`].
pub async fn breathe() {
    let mut first = true;
    std::future::poll_fn(move |context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await
}

/// Set by a job that has computation left and waits for no completion.
#[derive(Default)]
struct Runnable(AtomicBool);

impl Wake for Runnable {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Background jobs of one shard, each a future that ends in a `T`.
pub struct Jobs<T> {
    running: Vec<Pin<Box<dyn Future<Output = T>>>>,
    runnable: Arc<Runnable>,
}

impl<T> Default for Jobs<T> {
    fn default() -> Self {
        Jobs { running: Vec::new(), runnable: Arc::default() }
    }
}

impl<T> Jobs<T> {
    /// Adds a job; it starts at the next [`Jobs::run`].
    pub fn add(&mut self, job: impl Future<Output = T> + 'static) {
        self.running.push(Box::pin(job));
        self.runnable.0.store(true, Ordering::Relaxed);
    }

    /// Whether a job can go on without a completion.
    pub fn is_runnable(&self) -> bool {
        self.runnable.0.load(Ordering::Relaxed)
    }

    /// Jobs that have not ended.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether no job runs.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Polls every job once; results of those that ended go to `out`.
    pub fn run(&mut self, out: &mut Vec<T>) {
        self.runnable.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.runnable.clone());
        let mut context = Context::from_waker(&waker);
        let mut at = 0;
        while at < self.running.len() {
            match self.running[at].as_mut().poll(&mut context) {
                Poll::Ready(result) => {
                    out.push(result);
                    drop(self.running.remove(at));
                }
                Poll::Pending => at += 1,
            }
        }
    }
}

/// Runs one future to its end on `disk`, waiting as needed: start-up, tools and tests.
pub fn block_on<T>(io: &Io, disk: &mut dyn super::Disk, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let (mut outgoing, mut completions) = (Vec::new(), Vec::new());
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        io.take_outgoing(&mut outgoing);
        for (tag, op) in outgoing.drain(..) {
            disk.submit(tag, op);
        }
        disk.poll(&mut completions);
        if completions.is_empty() {
            disk.wait();
            disk.poll(&mut completions);
        }
        for done in completions.drain(..) {
            let _ = io.complete(done);
        }
    }
}
