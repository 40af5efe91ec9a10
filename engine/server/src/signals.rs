//! Signals, from the first moment of the process: a stop while the server is still starting ends it as well.
//!
//! As process 1 of a container there is no default action: a signal without a handler is lost. SIGQUIT is what some images
//! name as their stop signal. All others end the process unless they are handled, and what sends them, a program that rotates
//! logs or a stray timer, does not mean to: they are ignored. Signals of faults (SIGSEGV, SIGABRT and the like) keep their
//! default action.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{exit, logging};

/// Whether the server is to stop, and what a stop means now.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    is_set: Arc<AtomicBool>,
    is_serving: Arc<AtomicBool>,
}

impl Stop {
    /// The flag that shards look at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_set)
    }

    /// After this call, a signal stops the shards gracefully. Before it, a signal ends the process: nothing is in progress
    /// that a crash would leave incomplete.
    pub fn begin_serving(&self) {
        self.is_serving.store(true, Ordering::SeqCst);
    }

    fn stop(&self) {
        if self.is_serving.load(Ordering::SeqCst) {
            tracing::info!("stopping");
            self.is_set.store(true, Ordering::Relaxed);
            return;
        }
        tracing::info!("stopped before it served");
        logging::flush();
        exit::now(0);
    }
}

/// Begins to take signals, on a thread of its own.
///
/// Errors: the thread, or its handlers, cannot be made.
pub fn take() -> io::Result<Stop> {
    let stop = Stop::default();
    let theirs = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let signals = {
        let _runtime = runtime.enter();
        Signals::register()?
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(signals.act_on(&theirs)))?;
    Ok(stop)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
    /// Never looked at. That it is handled keeps a write beyond `ulimit -f` from ending the process: the write fails with
    /// EFBIG, as it does with ENOSPC on a full disk.
    _file_size: Signal,
    ignored: Vec<(String, Signal)>,
}

/// Signals that end a process by default and mean nothing here, beside the real-time ones.
const IGNORED: [(libc::c_int, &str); 9] = [
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGXCPU, "SIGXCPU"),
];

impl Signals {
    fn register() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
            ignored: Self::register_ignored()?,
        })
    }

    fn register_ignored() -> io::Result<Vec<(String, Signal)>> {
        let named = IGNORED.map(|(number, name)| (number, name.to_owned()));
        let first = libc::SIGRTMIN();
        let real_time = first..=libc::SIGRTMAX();
        let real_time = real_time.map(|number| (number, format!("SIGRTMIN+{}", number - first)));
        let all = named.into_iter().chain(real_time);
        all.map(|(number, name)| Ok((name, signal(SignalKind::from_raw(number))?)))
            .collect()
    }

    async fn act_on(mut self, stop: &Stop) {
        let terminal = Terminal::now();
        for (name, signal) in self.ignored.drain(..) {
            tokio::spawn(ignore(name, signal));
        }
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.quit.recv() => {}
                _ = self.hang_up.recv() => {
                    logging::reload_level();
                    continue;
                }
            }
            terminal.restore();
            stop.stop();
        }
    }
}

async fn ignore(name: String, mut signal: Signal) {
    while signal.recv().await.is_some() {
        tracing::info!(
            "{name} means nothing here and is ignored; SIGHUP reads the log level again"
        );
    }
}

/// The terminal as it was before a prompt switched its echo off.
struct Terminal(Option<libc::termios>);

impl Terminal {
    fn now() -> Terminal {
        let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the call only writes to `settings`, which has room for it.
        let is_terminal = unsafe { libc::tcgetattr(0, settings.as_mut_ptr()) } == 0;
        // SAFETY: the call has filled it when it succeeded.
        Terminal(is_terminal.then(|| unsafe { settings.assume_init() }))
    }

    fn restore(&self) {
        if let Some(settings) = &self.0 {
            // SAFETY: the settings are those that the kernel gave. A failure leaves the terminal as it is.
            unsafe { libc::tcsetattr(0, libc::TCSANOW, settings) };
        }
    }
}
