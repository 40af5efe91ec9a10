//! The state of one key, for status pages, tests and the simulator.

use super::Shard;
use crate::action::KeyspaceId;
use crate::entry::State;
use crate::event::InvalidCause;
use crate::flight::Stage;
use crate::keyspace::Gate;
use crate::time::Instant;

/// The life-cycle state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifecycle {
    /// Nothing is known.
    Absent,
    /// Nothing is live, and a load is in flight.
    Loading,
    /// Nothing is live, and a load waits for the DEK.
    AwaitingDek,
    /// Live, younger than its soft TTL.
    Fresh,
    /// Live, and due for a newer load.
    Stale,
    /// Nothing is live, loads fail, and the next one is delayed.
    BackOff,
    /// Known to be missing.
    Negative,
    /// The stored blob cannot be used.
    Invalid,
    /// Revoked.
    Revoked,
}

/// The state of one key in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The life-cycle state.
    pub lifecycle: Lifecycle,
    /// The keyspace is not served: locked by command, or refused by the KMS.
    pub needs_unlock: bool,
    /// A flight of this key is in progress.
    pub refreshing: bool,
    /// Loads of this key fail, and the next one is delayed.
    pub backing_off: bool,
    /// Used since its last load.
    pub used: bool,
    /// Why the stored blob cannot be used, if it cannot.
    pub invalid: Option<InvalidCause>,
    /// Version of the live key, 0 if there is none.
    pub version: u32,
    /// DEK generation that opened the live key, 0 if there is none.
    pub dek_generation: u32,
    /// When the load of the live key began.
    pub loaded_at: Option<Instant>,
    /// When the live key becomes, or became, stale.
    pub soft_at: Option<Instant>,
    /// `effective_hard` of the live key.
    pub expires_at: Option<Instant>,
}

impl<V> Shard<V> {
    /// Returns the state of one key without affecting it, or `None` if the keyspace does not exist.
    #[must_use]
    pub fn view(&self, now: Instant, keyspace: KeyspaceId, key_id: &[u8]) -> Option<View> {
        let keyspace_at = self.keyspace_at(keyspace)?;
        let of = &self.keyspaces[keyspace_at];
        let mut view = View {
            lifecycle: Lifecycle::Absent,
            needs_unlock: of.gate != Gate::Open,
            refreshing: false,
            backing_off: false,
            used: false,
            invalid: None,
            version: 0,
            dek_generation: 0,
            loaded_at: None,
            soft_at: None,
            expires_at: None,
        };
        let Some(at) = self.find(keyspace, key_id) else {
            return Some(view);
        };
        let entry = &self.entries[at];
        let stage = entry.flight.map(|flight| self.group.flights[flight].stage);
        view.refreshing = stage.is_some();
        view.backing_off = entry.backoff.left_us(now).is_some();
        view.used = entry.touched & crate::entry::USED != 0;
        let without_key = match stage {
            Some(Stage::Queued { .. } | Stage::Loading { .. }) => Lifecycle::Loading,
            Some(Stage::AwaitingDek) => Lifecycle::AwaitingDek,
            None if view.backing_off => Lifecycle::BackOff,
            Some(Stage::Over) | None => Lifecycle::Absent,
        };
        view.lifecycle = match &entry.state {
            State::Live(live) if now < of.terms.effective_hard(live) => {
                let points = of.terms.points(live);
                view.version = live.version;
                view.dek_generation = live.dek_generation;
                view.loaded_at = Some(live.loaded_at);
                view.soft_at = Some(points.soft_at);
                view.expires_at = Some(of.terms.effective_hard(live));
                if now < points.soft_at {
                    Lifecycle::Fresh
                } else {
                    Lifecycle::Stale
                }
            }
            State::Negative { until } if now < *until => Lifecycle::Negative,
            State::Invalid { cause, .. } => {
                view.invalid = Some(*cause);
                Lifecycle::Invalid
            }
            State::Revoked => Lifecycle::Revoked,
            State::Live(_) | State::Negative { .. } | State::Empty => without_key,
        };
        Some(view)
    }
}
