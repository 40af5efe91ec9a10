//! What clients asked for and were answered, and what was promised thereby. Kept apart from the node, which is never asked
//! what to expect.

mod keys;
mod keyspaces;

pub(super) use keys::{KeyBook, Revoked};
pub(super) use keyspaces::{Book, Taken};

use super::plan::{Asks, Key};
use super::port::{Opened, Used};
use super::terms::Freshness;
use keyway_node::ids::{CallId, Revision};
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_protocol::Status;
use std::collections::{BTreeMap, BTreeSet};

/// A request that was lost with its connection may begin so long after it was sent, µs.
pub(super) const MAY_BEGIN_WITHIN_US: u64 = 30_000_000;

/// How long after its deadline a shard waits for the verdict on what takes something away, µs.
const VERDICT_US: u64 = 100_000;

#[derive(Default)]
pub(super) struct Books {
    last_request: u64,
    last_listing: u64,
    /// Clients that page through the keyspaces.
    pub(super) walks: BTreeMap<u64, Walk>,
    pub(super) requests: BTreeMap<u64, Asked>,
    /// Requests without an answer, and those of them that a shard's ticks may end.
    open: BTreeSet<u64>,
    waiting: usize,
    /// Deadlines of requests that have reached a shard.
    pub(super) deadlines: BTreeMap<u16, BTreeSet<(u64, u64)>>,
    pub(super) keys: BTreeMap<Key, KeyBook>,
    pub(super) keyspaces: BTreeMap<u32, Book>,
    /// Uses by number.
    pub(super) uses: BTreeMap<u64, UsedKey>,
    /// Loads, with the shard.
    pub(super) loads: BTreeMap<u64, (u16, Opened)>,
    pub(super) listings: BTreeMap<u64, Listing>,
    pub(super) tickets: Tickets,
    pub(super) of_control: OfControl,
    pub(super) of_process: OfProcess,
    /// When the mesh is free from one shard to another.
    pub(super) mesh: BTreeMap<(u16, u16), u64>,
    /// When a shard's thread, or the machine, last did not run.
    pub(super) trouble_at: u64,
    planted_panics: u64,
    has_planted_panic: bool,
}

/// What control does, as the world around it sees it.
#[derive(Default)]
pub(super) struct OfControl {
    /// Calls in progress, and which keyspace each is for.
    pub(super) calls: BTreeMap<CallId, Option<u32>>,
    /// Unwraps in progress, by keyspace.
    pub(super) unwraps: BTreeMap<u32, usize>,
    pub(super) told: BTreeMap<(u32, Revision), KeyspaceChange>,
    /// Tickets that it has told shards, with the keyspace of each.
    pub(super) tickets: BTreeSet<(u32, u64)>,
}

/// What was answered by the process that runs.
#[derive(Default)]
pub(super) struct OfProcess {
    /// Answers that left, by keyspace, operation and outcome.
    pub(super) released: BTreeMap<(u32, &'static str, &'static str), u64>,
    /// Requests whose connection has gone.
    pub(super) lost: u64,
}

/// Tickets of the process that runs.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// Those that clients were given, in their order.
    pub(super) given: Vec<(u32, u64)>,
    pub(super) of_unlocks: Vec<(u32, u64)>,
    /// When it was said first of a ticket that it is done.
    pub(super) done: BTreeMap<u64, u64>,
    /// What UNLOCK_STATUS was answered, by request.
    pub(super) states: BTreeMap<u64, String>,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) client: usize,
    /// `None`: the operator.
    pub(super) user: Option<u32>,
    /// `None`: HELLO.
    pub(super) asks: Option<Asks>,
    pub(super) sent_at: u64,
    deadline_us: u32,
    /// When it must be answered.
    pub(super) deadline: Option<u64>,
    /// When its answer passed the release mark.
    pub(super) released_at: Option<u64>,
    pub(super) answered: Option<(Status, u64)>,
    /// Its connection, or its process, has gone.
    pub(super) is_lost: bool,
}

impl Asked {
    pub(super) fn new(
        client: usize,
        user: Option<u32>,
        asks: Asks,
        deadline_us: u32,
        now: u64,
    ) -> Self {
        Self {
            client,
            user,
            asks: Some(asks),
            sent_at: now,
            deadline_us,
            deadline: None,
            released_at: None,
            answered: None,
            is_lost: false,
        }
    }

    /// Whether a shard's tick may have to end it.
    fn waits(&self) -> bool {
        self.deadline_us > 0 || self.asks.is_none_or(|asks| asks.key().is_some())
    }

    /// Whether it may have taken effect at a time after `from`.
    pub(super) fn may_act_after(&self, from: u64) -> bool {
        match self.answered {
            Some((_, at)) => at >= from,
            None if self.is_lost => self.sent_at + MAY_BEGIN_WITHIN_US >= from,
            None => true,
        }
    }
}

/// A use, and what its answer may say.
#[derive(Clone, Copy, Debug)]
pub(super) struct UsedKey {
    pub(super) used: Used,
    /// The key's end.
    pub(super) end: u64,
    pub(super) freshness: Freshness,
}

/// A client pages through a shard's keys.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) client: usize,
    pub(super) keyspace: u32,
    pub(super) shard: u16,
    pub(super) began_at: u64,
    pub(super) expected: BTreeSet<Key>,
    pub(super) seen: Vec<Vec<u8>>,
    pub(super) cursor: Vec<u8>,
}

/// A client pages through the keyspaces.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) client: usize,
    pub(super) seen: Vec<u32>,
}

impl Books {
    pub(super) fn ask(&mut self, asked: Asked) -> u64 {
        self.last_request += 1;
        self.waiting += usize::from(asked.waits());
        self.note_sent(&asked);
        self.open.insert(self.last_request);
        self.requests.insert(self.last_request, asked);
        self.last_request
    }

    pub(super) fn ask_hello(&mut self, client: usize, now: u64) -> u64 {
        let mut asked = Asked::new(client, None, Asks::Keyspaces, 0, now);
        asked.asks = None;
        self.ask(asked)
    }

    pub(super) fn next_listing(&mut self) -> u64 {
        self.last_listing += 1;
        self.last_listing
    }

    pub(super) fn cursor_of(&self, listing: u64) -> Vec<u8> {
        let listing = self.listings.get(&listing);
        listing.map_or(Vec::new(), |listing| listing.cursor.clone())
    }

    pub(super) fn begin_walk(&mut self, client: usize) -> u64 {
        let walk = self.next_listing();
        let seen = Vec::new();
        self.walks.insert(walk, Walk { client, seen });
        walk
    }

    /// The whole of a request has reached its shard.
    pub(super) fn receive(&mut self, shard: u16, request: u64, now: u64) {
        if let Some(asked) = self.requests.get_mut(&request)
            && asked.deadline_us > 0
        {
            let deadline = now + u64::from(asked.deadline_us);
            asked.deadline = Some(deadline);
            let awaits_verdict = asked.asks.is_some_and(Asks::may_take_away);
            let overdue_at = deadline + if awaits_verdict { VERDICT_US } else { 0 };
            self.deadlines
                .entry(shard)
                .or_default()
                .insert((overdue_at, request));
        }
    }

    /// A request has its answer. `None`: it does not exist, or had its answer.
    pub(super) fn close(&mut self, request: u64, status: Status, now: u64) -> Option<Asked> {
        if !self.open.remove(&request) {
            return None;
        }
        let asked = self.requests.get_mut(&request)?;
        asked.answered = Some((status, now));
        self.waiting -= usize::from(asked.waits());
        Some(asked.clone())
    }

    /// Whether a request waits that a shard's tick may have to end.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    pub(super) fn open(&self) -> impl Iterator<Item = (u64, &Asked)> {
        self.open.iter().map(|id| (*id, &self.requests[id]))
    }

    /// A client's connection is gone, and the outcome of its requests is unknown.
    pub(super) fn lose(&mut self, client: usize) {
        let open = std::mem::take(&mut self.open);
        let (gone, open) = open
            .into_iter()
            .partition(|id| self.requests[id].client == client);
        self.open = open;
        for id in gone {
            let Some(asked) = self.requests.get_mut(&id) else {
                continue;
            };
            asked.is_lost = true;
            self.of_process.lost += 1;
            self.waiting -= usize::from(asked.waits());
            let asked = asked.clone();
            self.note_unknown(&asked);
        }
    }

    /// The process has died. `is_durable` tells of a keyspace and a user what `keyspaces.json` has.
    pub(super) fn forget_process(&mut self, now: u64) {
        let clients: BTreeSet<usize> = self.open().map(|(_, asked)| asked.client).collect();
        for client in clients {
            self.lose(client);
        }
        for asked in self.requests.values_mut() {
            // It begins no more.
            if asked.answered.is_none() {
                asked.answered = Some((Status::Internal, now));
            }
        }
        for book in self.keyspaces.values_mut() {
            book.forget_process();
        }
        for key in self.keys.values_mut() {
            key.forget_process();
        }
        self.deadlines.clear();
        self.loads.clear();
        self.listings.clear();
        self.walks.clear();
        self.tickets = Tickets::default();
        self.of_control = OfControl::default();
        self.of_process = OfProcess::default();
        self.mesh.clear();
    }

    pub(super) fn change(&self, keyspace: u32, revision: Revision) -> Option<KeyspaceChange> {
        self.of_control.told.get(&(keyspace, revision)).cloned()
    }

    pub(super) fn plant_panic(&mut self) {
        self.planted_panics += 1;
        self.has_planted_panic = true;
    }

    pub(super) fn was_panic_planted(&self) -> bool {
        self.has_planted_panic
    }

    pub(super) fn take_planted_panic(&mut self) -> bool {
        let was_planted = self.planted_panics > 0;
        self.planted_panics = self.planted_panics.saturating_sub(1);
        was_planted
    }

    /// A request was sent: what it may loosen counts from here.
    fn note_sent(&mut self, asked: &Asked) {
        let Some(asks) = asked.asks else { return };
        match asks {
            Asks::Unlock { keyspace, .. } => self.of(keyspace).locked = None,
            Asks::Rewrap { keyspace, .. } => self.of(keyspace).wrapped.note_sent(),
            Asks::Grant { keyspace, who } => {
                self.of(keyspace).withdrawn.remove(&who);
            }
            Asks::Withdraw { keyspace, who } => {
                self.of(keyspace).may_be_withdrawn.insert(who);
            }
            _ => {}
        }
        if let Some(key) = asks.key() {
            self.keys.entry(key).or_default().note_sent(asks);
        }
    }

    fn note_unknown(&mut self, asked: &Asked) {
        if let Some(Asks::Set { keyspace, name, .. }) = asked.asks {
            self.of(keyspace).settings.remove(name);
        }
        if let Some(Asks::Rewrap { keyspace, .. }) = asked.asks {
            self.of(keyspace).wrapped.note_unknown();
        }
        if let Some(asks) = asked.asks
            && let Some(key) = asks.key()
        {
            self.keys.entry(key).or_default().note_unknown(asks);
        }
    }

    pub(super) fn of(&mut self, keyspace: u32) -> &mut Book {
        self.keyspaces.entry(keyspace).or_default()
    }

    /// Whether a user may be without any right.
    pub(super) fn may_be_rightless(&self, who: u32) -> bool {
        let mut books = self.keyspaces.values();
        books.any(|book| book.may_be_withdrawn.contains(&who))
    }
}
