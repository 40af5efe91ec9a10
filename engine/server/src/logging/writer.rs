//! Log lines for standard error: queued, written by a separate thread, dropped and counted if they cannot be written. A
//! pipe that is never read, a full disk or a closed descriptor blocks no other thread.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
pub const LINES_QUEUED_MAX: usize = 4_096;

/// Bytes of lines that wait to be written.
pub const BYTES_QUEUED_MAX: usize = 4 << 20;

/// Pause before a descriptor that takes nothing now is tried again, and how often it is.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const RETRIES_MAX: u32 = 50;

/// Bytes that a pipe takes at once if it takes any: the kernel's PIPE_BUF.
const ROOM_MIN: usize = 4_096;

/// Between two looks at what was held back.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The queue's end that lines are put into.
#[derive(Clone)]
pub struct Queue {
    items: SyncSender<Item>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    bytes: AtomicUsize,
    lost: AtomicU64,
}

impl Queue {
    /// Starts the thread that writes to `out`. `look` is called about once a second with the number of lines that were
    /// lost since.
    ///
    /// Errors: the thread cannot be started.
    pub fn start(
        out: impl Write + Send + 'static,
        look: impl FnMut(u64) + Send + 'static,
    ) -> io::Result<Queue> {
        let (items, queued) = sync_channel(LINES_QUEUED_MAX);
        let counts = Arc::new(Counts::default());
        let theirs = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(out, &queued, &theirs, look))?;
        Ok(Queue { items, counts })
    }

    /// Queues a line, or counts it as lost.
    pub fn offer(&self, line: Vec<u8>) {
        let len = line.len();
        let queued = self.counts.bytes.fetch_add(len, Ordering::Relaxed);
        let fits = queued + len <= BYTES_QUEUED_MAX;
        if !fits || self.items.try_send(Item::Line(line)).is_err() {
            self.counts.bytes.fetch_sub(len, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what is queued has been written, but no longer than `within`.
    pub fn flush(&self, within: Duration) {
        let began = Instant::now();
        let (done, written) = sync_channel(1);
        while self.items.try_send(Item::Flush(done.clone())).is_err() {
            if began.elapsed() > within {
                return;
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        let _ = written.recv_timeout(within.saturating_sub(began.elapsed()));
    }
}

/// Writes a line from this thread, or drops it if there is no room for it within `within`.
pub fn write_now(out: impl AsFd, line: &[u8], within: Duration) {
    let mut looked_at = [PollFd::new(&out, PollFlags::OUT)];
    let within = Timespec::try_from(within).ok();
    let line = &line[..line.len().min(ROOM_MIN)];
    if rustix::event::poll(&mut looked_at, within.as_ref()).is_ok_and(|ready| ready > 0) {
        // There is no place to report an error to.
        let _ = rustix::io::write(&out, line);
    }
}

fn write_all(
    mut out: impl Write,
    queued: &Receiver<Item>,
    counts: &Counts,
    mut look: impl FnMut(u64),
) {
    let mut looked_at = Instant::now();
    loop {
        match queued.recv_timeout(LOOK_PERIOD) {
            Ok(Item::Line(line)) => {
                counts.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                write_line(&mut out, &line);
            }
            Ok(Item::Flush(done)) => {
                // The thread that flushes may have stopped waiting.
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if looked_at.elapsed() >= LOOK_PERIOD {
            looked_at = Instant::now();
            look(counts.lost.swap(0, Ordering::Relaxed));
        }
    }
}

/// Writes a line, or what can be written of it: there is no place to report an error to.
fn write_line(out: &mut impl Write, line: &[u8]) {
    let mut rest = line;
    let mut retries = 0;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return,
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && retries < RETRIES_MAX => {
                retries += 1;
                std::thread::sleep(RETRY_PAUSE);
            }
            Err(_) => return,
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            queue: self,
            bytes: Vec::new(),
        }
    }
}

/// One line while it is put together.
pub struct Line<'a> {
    queue: &'a Queue,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.queue.offer(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_takes_nothing_holds_up_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = Queue::start(writer, |_| {}).unwrap();
        for _ in 0..3 * LINES_QUEUED_MAX {
            queue.offer(vec![b'x'; 1_000]);
        }
        assert!(queue.counts.lost.load(Ordering::Relaxed) > 0);
        assert!(queue.counts.bytes.load(Ordering::Relaxed) <= BYTES_QUEUED_MAX);
        queue.flush(Duration::from_millis(10));
        drop(reader);
        queue.flush(Duration::from_secs(60));
        queue.offer(b"last\n".to_vec());
        queue.flush(Duration::from_secs(60));
        assert_eq!(queue.counts.bytes.load(Ordering::Relaxed), 0);
    }
}
