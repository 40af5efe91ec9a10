//! Limits each event to ten lines per second or minute, for the whole process. The others are counted, and the count is
//! logged.
//!
//! An event is a place in the source. Places are kept in a table of fixed size that is filled once and read without a
//! lock, since shards log.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

use super::{LINES_MAX, PER_MINUTE};

/// Most events that are distinguished; further ones are not limited. The source has some hundred.
const EVENTS_MAX: usize = 1_024;

/// Events whose counts are logged in one second.
const REPORTS_MAX: usize = 8;

static EVENTS: [Slot; EVENTS_MAX] = [const { Slot::new() }; EVENTS_MAX];

struct Slot {
    event: OnceLock<&'static Metadata<'static>>,
    window: AtomicU64,
    written: AtomicU32,
    held_back: AtomicU64,
}

impl Slot {
    const fn new() -> Slot {
        Slot {
            event: OnceLock::new(),
            window: AtomicU64::new(0),
            written: AtomicU32::new(0),
            held_back: AtomicU64::new(0),
        }
    }

    /// Returns whether one more line may be written in this window. Threads that race at its start may write some more.
    fn admit(&self, window: u64) -> bool {
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.written.store(0, Ordering::Relaxed);
        }
        let is_within = self.written.fetch_add(1, Ordering::Relaxed) < LINES_MAX;
        if !is_within {
            self.held_back.fetch_add(1, Ordering::Relaxed);
        }
        is_within
    }
}

/// The limit, as a filter of the layer that writes.
pub struct Limit;

impl<S> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let event = event.metadata();
        // `debug` and `trace` are not limited.
        *event.level() > Level::INFO
            || slot_of(event).is_none_or(|slot| slot.admit(window_of(event)))
    }
}

/// Logs how many lines were held back since the last report, during a flood as well as after it.
pub fn report() {
    let has_any = |slot: &&Slot| slot.held_back.load(Ordering::Relaxed) > 0;
    for slot in EVENTS.iter().filter(has_any).take(REPORTS_MAX) {
        let held_back = slot.held_back.swap(0, Ordering::Relaxed);
        if let Some(event) = slot.event.get() {
            let file = event.file().unwrap_or_default();
            let place = format!("{file}:{}", event.line().unwrap_or_default());
            tracing::warn!(held_back, event = place, "log lines held back");
        }
    }
}

fn slot_of(event: &'static Metadata<'static>) -> Option<&'static Slot> {
    let address = std::ptr::from_ref(event).addr();
    let first = (address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (0..EVENTS_MAX)
        .map(|step| &EVENTS[first.wrapping_add(step) % EVENTS_MAX])
        .find(|slot| {
            let taken = slot.event.get_or_init(|| event);
            std::ptr::eq(*taken, event)
        })
}

/// Returns the number of the current window of an event, counted from when the process first logged.
fn window_of(event: &Metadata<'_>) -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let seconds = BEGAN.get_or_init(Instant::now).elapsed().as_secs();
    let window_s = if event.name() == PER_MINUTE { 60 } else { 1 };
    // Never 0, which is the window of a slot that was never used.
    seconds / window_s + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_limited_and_counted() {
        let slot = Slot::new();
        let written = (0..100).filter(|_| slot.admit(1)).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(slot.held_back.load(Ordering::Relaxed), 90);
        assert!(slot.admit(2));
    }
}
