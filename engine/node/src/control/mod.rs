//! The owner of the keyspaces: commands, locks and unlocks, DEKs and their leases.
//!
//! ```text
//!  shards ──── handle_shard ──▶ ┌─────────┐ ──▶ Tell        messages to shards
//!  KMSes ───── handle_kms ────▶ │ Control │ ──▶ Kms         calls, each by a name of its own
//!  the disk ── handle_saved ──▶ │         │ ──▶ Save        one write at a time
//!  the clock ─ handle_tick ───▶ └─────────┘ ──▶ Report, values for the exporter
//!                                 poll_effect
//! ```
//!
//! In force = written ∧ wanted: a change that takes something away is applied by every shard first and then written; a
//! change that grants something is written first. Both are acknowledged once they are in force and written; if the write
//! fails, the response has a status of its own. Nothing blocks: a work that needs a KMS, the disk or the shards is put
//! aside, and resumed when that arrives.
//!
//! # Order of calls
//!
//! 1. Create it, and start every shard with [`Control::keyspaces_at_start`]; then call [`Control::handle_start`].
//! 2. Report the status of a KMS by [`Control::handle_kms_status`] before each input whose outcome may depend on it.
//! 3. After each input, drain [`Control::poll_effect`] and perform the effects in order.
//! 4. Each effect that expects an answer gets exactly one; a panic or a dropped future counts as a failure.
//! 5. Call [`Control::handle_tick`] at [`Control::poll_timeout`].
//! 6. At shutdown, call [`Control::handle_shard_stopped`] for each shard, then [`Control::handle_stop`].

mod commands;
mod create;
mod destroy;
mod documents;
mod effect;
mod event;
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

use crate::catalogue::Catalogue;
use crate::ids::{CallId, Epoch, Opening, QuestionId, WorkId, WriteId};
use crate::keyspace_change::KeyspaceChange;
use crate::messages::ToControl;
use crate::policy::Owner;
use crate::time::Moment;

use commands::Commands;
use event::{Event, ShardAnswer};
use every_second::EverySecond;
use hot_keys::HotKeys;
use in_force::InForce;
use lease::Lease;
use live_page::Page;
use publish::Publications;
use saver::Writes;
use tickets::Tickets;
use troubles::Troubles;
use works::{Caller, Work, Works};

pub use commands::COMMANDS_MAX;
pub use effect::{ControlEffect, ControlFigures, FirstSeal, KmsAnswer, KmsRequest, Unlocked};
pub use kms::{Deks, FailureClass, KmsFailure, KmsSet, KmsStatus, Need, NewDek};
pub use report::Report;
pub use state::State;
pub use unlock::{UNLOCKS_MAX, UNLOCKS_RESERVED};

/// Why a command is refused.
type Refused = (Status, String);

/// The outcome of a command: the payload of the response, or the refusal.
type Reply = Result<Vec<u8>, Refused>;

/// The configuration of [`Control`].
pub struct Settings {
    /// Number of shards of the node.
    pub shards: u16,
    /// The rights that apply in every keyspace.
    pub owner: Owner,
    /// Distinguishes this process's tickets from another's; drawn at random.
    pub ticket_key: u64,
    /// Whether the live page shows key ids.
    pub page_key_ids: bool,
}

/// State of one keyspace, in addition to the catalogue.
struct Governed {
    state: State,
    /// Number of locks so far. A work that began in an older epoch is discarded.
    epoch: Epoch,
    /// Number of unlocks so far.
    opening: Opening,
    lease: Lease,
    /// Unlocks in progress.
    unlocks: usize,
    /// The rotation, move, revival or destruction of its DEKs in progress; at most one.
    changing_deks: Option<WorkId>,
    /// The work that reseals its blobs under a new DEK.
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

/// State on which no command waits.
struct Beside {
    tickets: Tickets,
    hot_keys: HotKeys,
    page: Page,
    every_second: EverySecond,
    /// DEKs that blobs need and that do not exist, already logged.
    missing_deks: BTreeSet<(u32, u32)>,
}

impl Control {
    /// Creates control from the keyspaces as written, and the KMSes.
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

    /// Returns the state of the keyspaces with which every shard starts.
    pub fn keyspaces_at_start(&mut self) -> Vec<KeyspaceChange> {
        let tickets = &mut self.beside.tickets;
        let keyspaces = self.in_force.written().iter();
        keyspaces
            .map(|(id, keyspace)| KeyspaceChange::at_start(id, keyspace, tickets.current(id)))
            .collect()
    }

    /// Starts the background work when every shard serves. Resumes what an earlier process has not completed: blobs under
    /// older DEKs are resealed, and the DEKs of keyspaces that had hot keys are requested ahead.
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

    /// Handles a message from a shard.
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
                self.check_opening(keyspace);
            }
            ToControl::Wiped { keyspace, epoch } => {
                self.published.note_wiped(from, keyspace, epoch);
                self.check_wiping(keyspace);
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

    /// Handles the stop of a shard: it holds no keys any longer, and answers nothing.
    pub fn handle_shard_stopped(&mut self, now: Moment, shard: u16) {
        self.now = now;
        for keyspace in self.published.note_stopped(shard) {
            self.check_wiping(keyspace);
            self.check_opening(keyspace);
        }
        for work in self.works.asked_of(shard) {
            self.resume(work, Event::Shard(ShardAnswer::Stopped));
        }
        self.run();
    }

    /// Handles the current status of a KMS.
    pub fn handle_kms_status(&mut self, kms: &str, status: KmsStatus) {
        if let Some(known) = self.kms.status.get_mut(kms) {
            *known = status;
        }
    }

    /// Handles an answer from a KMS. An answer to an unknown call, or to one that a lock has superseded, is dropped and
    /// wiped.
    pub fn handle_kms(&mut self, now: Moment, call: CallId, answer: KmsAnswer) {
        self.now = now;
        match self.works.called(call) {
            Some(Caller::Work(work)) => self.resume(work, Event::Kms(answer)),
            Some(Caller::Lease(id)) => self.handle_lease_answer(id, call, answer),
            None => {}
        }
        self.run();
    }

    /// Handles the end of a write.
    pub fn handle_saved(&mut self, now: Moment, write: WriteId, result: Result<(), String>) {
        self.now = now;
        self.saved(write, result);
        self.run();
    }

    /// Handles the end of a write of hot keys, successful or not.
    pub fn handle_hot_keys_saved(&mut self) {
        self.beside.hot_keys.saved();
    }

    /// Handles a page of STATUS from the exporter; `None` if it has stopped.
    pub fn handle_status(&mut self, now: Moment, question: QuestionId, page: Option<String>) {
        self.now = now;
        if let Some((work, _)) = self.works.asked(question) {
            self.resume(work, Event::Status(page));
        }
        self.run();
    }

    /// Collects the data of the live page, which was viewed within the last second.
    pub fn handle_page_viewed(&mut self, now: Moment) {
        self.now = now;
        self.feed_page();
        self.run();
    }

    /// Handles that changes made without a seal can be sealed now.
    pub fn handle_seal_due(&mut self) {
        self.beside.every_second.is_seal_due = true;
    }

    /// Advances time: ends what has expired, resumes what has paused, and does the periodic work.
    pub fn handle_tick(&mut self, now: Moment) {
        self.now = now;
        while let Some(asker) = self.commands.next_overdue(now.instant) {
            let text = "the command took longer than 10 minutes; the server no longer waits for it, but it may still take effect";
            self.report(Report::CommandTimedOut);
            self.send_answer(asker, Err((Status::Internal, text.to_owned())));
        }
        while let Some(work) = self.works.rested(now.instant) {
            self.resume(work, Event::Rested);
        }
        self.in_force.handle_tick(now.instant);
        if self.beside.every_second.is_due(now.instant) {
            self.do_every_second();
        }
        self.run();
    }

    /// Returns when [`Control::handle_tick`] must be called next.
    pub fn poll_timeout(&self) -> Instant {
        let ends = [
            self.commands.next_end(),
            self.works.next_rested(),
            self.in_force.next_check(),
        ];
        let second = self.beside.every_second.next();
        ends.into_iter().flatten().fold(second, Instant::min)
    }

    /// Returns the next effect.
    pub fn poll_effect(&mut self) -> Option<ControlEffect> {
        self.effects.pop_front()
    }

    /// Begins the shutdown: changes that could not be written are tried once more. It is complete when
    /// [`Control::is_writing`] returns `false`.
    pub fn handle_stop(&mut self, now: Moment) {
        self.now = now;
        self.in_force.retry_now();
        self.save();
        self.run();
    }

    /// Returns `true` if a write is in progress.
    pub fn is_writing(&self) -> bool {
        self.in_force.is_writing()
    }

    /// Returns the number of changes in force that a restart would undo.
    pub fn unwritten(&self) -> usize {
        self.in_force.unwritten()
    }

    /// Returns the catalogue as written.
    pub fn written(&self) -> &Catalogue {
        self.in_force.written()
    }

    /// Returns the ids of all keyspaces, including those that are not written yet.
    pub fn keyspaces(&self) -> impl Iterator<Item = u32> {
        self.keyspaces.keys().copied()
    }

    /// Returns the failures at a KMS, if any.
    pub fn trouble_of(&self, kms: &str, now: Instant) -> Option<crate::figures::KmsTrouble> {
        self.troubles.snapshot(kms, now)
    }

    /// Returns `true` if the list of hot keys is being written.
    pub fn is_writing_hot_keys(&self) -> bool {
        self.beside.hot_keys.is_writing()
    }

    /// Returns the list of hot keys for the next start, if it has changed since the last write.
    pub fn take_hot_keys(&mut self) -> Option<String> {
        self.beside.hot_keys.take_text()
    }

    /// Returns the status of a keyspace: its state, and the stages of a change of its DEKs, of resealing, and of an
    /// unlock.
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

    /// Returns the number of commands and of other works in progress.
    pub fn under_way(&self) -> (usize, usize) {
        (self.commands.len(), self.works.len())
    }
}
