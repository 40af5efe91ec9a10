//! The owner of the keyspaces: commands, locks and unlocks, DEKs and their leases.
//!
//! ```text
//!  shards ──── handle_shard ──▶ ┌─────────┐ ──▶ Tell        messages to shards
//!  KMSes ───── handle_kms ────▶ │ Control │ ──▶ Kms         calls, each by a name of its own
//!  the disk ── handle_saved ──▶ │         │ ──▶ Save        one write at a time
//!  the clock ─ handle_tick ───▶ └─────────┘ ──▶ Report, Figures
//!                                 poll_effect
//! ```
//!
//! In force = written ∧ wanted: what takes something away is acted on by every shard first and then written, what gives
//! something is written first. Both are acknowledged once they are in force and written; what could not be written is
//! answered with a status of its own. Nothing here waits: a work that needs a KMS, the disk or the shards is put aside and
//! resumed by what it waits for.
//!
//! # Order of calls
//!
//! 1. Make it, and start every shard with [`Control::keyspaces_at_start`]; then [`Control::handle_start`].
//! 2. Tell it how a KMS stands, by [`Control::handle_kms_status`], before each input of which the outcome may depend on that.
//! 3. After each input drain [`Control::poll_effect`] and do what it says, in its order.
//! 4. Each effect that expects an answer gets exactly one, whatever happens; a panic or a dropped future is a failure.
//! 5. Call [`Control::handle_tick`] at [`Control::poll_timeout`].
//! 6. At the end, [`Control::handle_shard_stopped`] for each shard, then [`Control::handle_stop`].

mod commands;
mod create;
mod destroy;
mod documents;
mod effect;
mod every_second;
pub mod hot_keys;
mod hottest;
mod in_force;
mod kms;
mod kms_admin;
mod lease;
mod live_page;
mod lock;
mod publish;
mod report;
mod request;
mod reseal;
mod revive;
mod rewrap;
mod rotation;
mod run;
mod saver;
mod settings;
mod state;
pub mod tickets;
mod troubles;
mod unlock;
mod unlock_status;
mod works;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use keyway_core::Instant;
use keyway_protocol::Status;

use crate::catalogue::{Catalogue, CatalogueError};
use crate::ids::{CallId, Epoch, Opening, QuestionId, WriteId};
use crate::keyspace_change::KeyspaceChange;
use crate::messages::ToControl;
use crate::policy::Owner;
use crate::time::Moment;

use commands::Commands;
use every_second::EverySecond;
use hot_keys::HotKeys;
use in_force::InForce;
use lease::Lease;
use live_page::Page;
use publish::Publications;
use saver::Writes;
use tickets::Tickets;
use troubles::Troubles;
use works::{Caller, Event, ShardAnswer, Work, WorkId, Works};

pub use commands::COMMANDS_MAX;
pub use effect::{ControlEffect, ControlFigures, FirstSeal, KmsAnswer, KmsRequest, Unlocked};
pub use kms::{Deks, FailureClass, KmsFailure, KmsSet, KmsStatus, Need, NewDek};
pub use report::Report;
pub use state::State;
pub use unlock::UNLOCKS_MAX;

/// How a command is refused.
type Refused = (Status, String);

/// The end of a command: the payload of its answer, or how it is refused.
type Reply = Result<Vec<u8>, Refused>;

/// What control needs to be made.
pub struct Settings {
    /// Shards of the node.
    pub shards: u16,
    /// The rights that hold everywhere.
    pub owner: Owner,
    /// What tells this process's tickets from another's; drawn at random.
    pub ticket_key: u64,
    /// Whether the live page names keys.
    pub page_key_ids: bool,
}

/// One keyspace, beside what the catalogue has of it.
struct Governed {
    state: State,
    /// Locks so far. A work that began under an older one is void.
    epoch: Epoch,
    /// Unlocks so far.
    opening: Opening,
    lease: Lease,
    /// Unlocks under way.
    unlocks: usize,
    /// A rotation, move, revival or destruction of its DEKs: one at a time.
    changing_deks: Option<WorkId>,
    /// Its blobs are being sealed under a new DEK.
    resealing: Option<WorkId>,
}

impl Governed {
    fn new(state: State) -> Self {
        Governed {
            state,
            epoch: Epoch::default(),
            opening: Opening::default(),
            lease: Lease::default(),
            unlocks: 0,
            changing_deks: None,
            resealing: None,
        }
    }
}

/// The control state machine.
pub struct Control {
    owner: Owner,
    now: Moment,
    keyspaces: BTreeMap<u32, Governed>,
    in_force: InForce,
    writes: Writes,
    published: Publications,
    kms: KmsSet,
    troubles: Troubles,
    commands: Commands,
    works: Works,
    beside: Beside,
    effects: VecDeque<ControlEffect>,
}

/// What no command waits for.
struct Beside {
    tickets: Tickets,
    hot_keys: HotKeys,
    page: Page,
    every_second: EverySecond,
    /// DEKs that blobs are sealed under and nobody has, of which the log has a line.
    missing_deks: BTreeSet<(u32, u32)>,
}

impl Control {
    /// Over the keyspaces as they are written, and the KMSes.
    pub fn new(
        now: Moment,
        settings: Settings,
        catalogue: Catalogue,
        kms: KmsSet,
        hot_keys: HotKeys,
    ) -> Control {
        let keyspaces = catalogue.iter().map(|(id, keyspace)| {
            let state = match keyspace.locked {
                true => State::Locked,
                false => State::Open,
            };
            (id, Governed::new(state))
        });
        Control {
            owner: settings.owner,
            now,
            keyspaces: keyspaces.collect(),
            in_force: InForce::new(catalogue),
            writes: Writes::default(),
            published: Publications::new(settings.shards),
            kms,
            troubles: Troubles::default(),
            commands: Commands::default(),
            works: Works::default(),
            beside: Beside {
                tickets: Tickets::new(settings.ticket_key),
                hot_keys,
                page: Page::new(settings.page_key_ids),
                every_second: EverySecond::default(),
                missing_deks: BTreeSet::new(),
            },
            effects: VecDeque::new(),
        }
    }

    /// The keyspaces as every shard begins with them.
    ///
    /// Errors: settings that contradict each other.
    pub fn keyspaces_at_start(&mut self) -> Result<Vec<KeyspaceChange>, CatalogueError> {
        let tickets = &mut self.beside.tickets;
        let keyspaces = self.in_force.written().iter();
        keyspaces
            .map(|(id, keyspace)| KeyspaceChange::at_start(id, keyspace, tickets.current(id)))
            .collect()
    }

    /// Every shard serves. Goes on with what an earlier process has left to do: blobs under older DEKs are sealed, and the
    /// DEKs of keyspaces that had hot keys are fetched before anybody asks.
    pub fn handle_start(&mut self, now: Moment) {
        self.now = now;
        let catalogue = self.in_force.written().iter();
        let unfinished = catalogue.filter(|(_, keyspace)| keyspace.has_older_deks());
        let unfinished: Vec<u32> = unfinished.map(|(id, _)| id).collect();
        for id in unfinished {
            self.start_resealing(id);
        }
        for keyspace in self.beside.hot_keys.keyspaces() {
            self.lease(keyspace);
        }
        self.run();
    }

    /// A shard has sent a message.
    pub fn handle_shard(&mut self, now: Moment, from: u16, message: ToControl) {
        self.now = now;
        match message {
            ToControl::Request(request) => self.handle_request(from, request),
            ToControl::Unwrap { keyspace } => self.lease(keyspace),
            ToControl::Revive {
                keyspace,
                generation,
            } => self.revive(keyspace, generation),
            ToControl::Hottest { keys } => self.beside.hot_keys.take(from, keys),
            ToControl::Acted { keyspace, revision } => {
                if let Some(told) = self.published.note_acted(from, keyspace, revision) {
                    self.send(told);
                }
                self.look_at_opening(keyspace);
            }
            ToControl::Wiped { keyspace, epoch } => {
                self.published.note_wiped(from, keyspace, epoch);
                self.look_at_wiping(keyspace);
            }
            ToControl::Confirmed {
                keyspace,
                generation,
            } => self.published.note_confirmed(from, keyspace, generation),
            ToControl::Resealed { question, page } => {
                self.handle_answer(from, question, ShardAnswer::Resealed(page));
            }
            ToControl::Progress { question, progress } => {
                self.handle_answer(from, question, ShardAnswer::Progress(progress));
            }
            ToControl::Hot { question, share } => {
                self.handle_answer(from, question, ShardAnswer::Hot(share));
            }
        }
        self.run();
    }

    /// A shard has stopped: it holds nothing any more, and answers nothing.
    pub fn handle_shard_stopped(&mut self, now: Moment, shard: u16) {
        self.now = now;
        for keyspace in self.published.note_stopped(shard) {
            self.look_at_wiping(keyspace);
            self.look_at_opening(keyspace);
        }
        for work in self.works.asked_of(shard) {
            self.resume(work, Event::Shard(ShardAnswer::Stopped));
        }
        self.run();
    }

    /// How a KMS stands now.
    pub fn handle_kms_status(&mut self, kms: &str, status: KmsStatus) {
        if let Some(known) = self.kms.status.get_mut(kms) {
            *known = status;
        }
    }

    /// A KMS has answered. An answer to no call, or to one that a lock has made void, is dropped and wiped.
    pub fn handle_kms(&mut self, now: Moment, call: CallId, answer: KmsAnswer) {
        self.now = now;
        match self.works.called(call) {
            Some(Caller::Work(work)) => self.resume(work, Event::Kms(answer)),
            Some(Caller::Lease(id)) => self.handle_lease_answer(id, call, answer),
            None => {}
        }
        self.run();
    }

    /// A write has ended.
    pub fn handle_saved(&mut self, now: Moment, write: WriteId, result: Result<(), String>) {
        self.now = now;
        self.saved(write, result);
        self.run();
    }

    /// The list of hot keys was written, or not: the next one can be.
    pub fn handle_hot_keys_saved(&mut self) {
        self.beside.hot_keys.saved();
    }

    /// The exporter has made a page of STATUS; `None` if it has stopped.
    pub fn handle_status(&mut self, now: Moment, question: QuestionId, page: Option<String>) {
        self.now = now;
        if let Some((work, _)) = self.works.asked(question) {
            self.resume(work, Event::Status(page));
        }
        self.run();
    }

    /// Somebody has looked at the live page within the last second. Makes what it shows.
    pub fn handle_page_viewed(&mut self, now: Moment) {
        self.now = now;
        self.feed_page();
        self.run();
    }

    /// Something was changed without a seal, and can be sealed now.
    pub fn handle_seal_due(&mut self) {
        self.beside.every_second.is_seal_due = true;
    }

    /// Time has passed: ends what is over, goes on with what has rested, and does once a second what is done so often.
    pub fn handle_tick(&mut self, now: Moment) {
        self.now = now;
        while let Some(asker) = self.commands.next_overdue(now.instant) {
            let text = "the command took longer than 10 minutes and is not waited for any longer; it may still be done";
            self.report(Report::CommandTimedOut);
            self.tell_answer(asker, Err((Status::Internal, text.to_owned())));
        }
        while let Some(work) = self.works.rested(now.instant) {
            self.resume(work, Event::Rested);
        }
        if self.beside.every_second.is_due(now.instant) {
            self.do_every_second();
        }
        self.run();
    }

    /// When [`Control::handle_tick`] is to be called next.
    pub fn poll_timeout(&self) -> Instant {
        let ends = [self.commands.next_end(), self.works.next_rested()];
        let second = self.beside.every_second.next();
        ends.into_iter().flatten().fold(second, Instant::min)
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<ControlEffect> {
        self.effects.pop_front()
    }

    /// The server stops: what could not be written is tried once more. Over once [`Control::is_writing`] is not so.
    pub fn handle_stop(&mut self, now: Moment) {
        self.now = now;
        self.in_force.retry_now();
        self.save();
        self.run();
    }

    /// Whether a write is under way.
    pub fn is_writing(&self) -> bool {
        self.in_force.is_writing()
    }

    /// Changes in force that a restart would undo.
    pub fn unwritten(&self) -> usize {
        self.in_force.unwritten()
    }

    /// The catalogue as it is written.
    pub fn written(&self) -> &Catalogue {
        self.in_force.written()
    }

    /// The keyspaces that there are, also those that are not written yet.
    pub fn keyspaces(&self) -> impl Iterator<Item = u32> {
        self.keyspaces.keys().copied()
    }

    /// What is wrong at the KMSes.
    pub fn trouble_of(&self, kms: &str, now: Instant) -> Option<crate::figures::KmsTrouble> {
        self.troubles.snapshot(kms, now)
    }

    /// Whether the list of hot keys is being written.
    pub fn is_writing_hot_keys(&self) -> bool {
        self.beside.hot_keys.is_writing()
    }

    /// The list of hot keys for the next start, if there is a newer one than was written.
    pub fn take_hot_keys(&mut self) -> Option<String> {
        self.beside.hot_keys.take_text()
    }

    /// How a keyspace stands: its state, and what is being done to its DEKs, to its blobs, and to unlock it.
    pub fn state_of(&self, id: u32) -> Option<[&'static str; 4]> {
        let governed = self.keyspaces.get(&id)?;
        let stage_of = |work: Option<WorkId>| match work.and_then(|work| self.works.get(work)) {
            Some(Work::Rotate(work)) => work.name(),
            Some(Work::Rewrap(work)) => work.name(),
            Some(Work::Revive(_)) => "reviving",
            Some(Work::Destroy(work)) => work.name(),
            Some(Work::Reseal(work)) => work.name(),
            _ => "steady",
        };
        Some([
            governed.state.name(),
            stage_of(governed.changing_deks),
            stage_of(governed.resealing),
            self.works.unlock_of(id).unwrap_or("idle"),
        ])
    }

    /// Commands and other works that have not ended.
    pub fn under_way(&self) -> (usize, usize) {
        (self.commands.len(), self.works.len())
    }
}
