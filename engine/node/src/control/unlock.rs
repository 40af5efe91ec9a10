//! UNLOCK: tickets, progress, and unlocks that wait for the KMS.
//!
//! ```text
//! UNLOCK ─▶ OpeningKms ─▶ Unwrapping ─proven▶ Wiping ─▶ Writing ─▶ OpeningShards ─▶ the lease
//!              │ MoreShares    ▲ │ failed, watched
//!              ▼               │ ▼
//!            ends            Resting
//! ```

use keyway_protocol::{Grants, Status, UnlockKind, encode_ticket};

use super::effect::{KmsAnswer, Unlocked};
use super::event::Event;
use super::in_force::Settlement;
use super::kms::{Deks, FailureClass, KmsFailure, Need};
use super::kms_admin::Opening;
use super::lease::Lease;
use super::publish::Until;
use super::report::Report;
use super::saver::settled;
use super::state::State;
use super::tickets::{UnlockRequest, UnlockState};
use super::{Control, Refused, Reply};
use crate::catalogue::Edit;
use crate::ids::{Epoch, WorkId};
use crate::messages::{Lane, Secret};
use crate::policy::Principal;

/// Most unlocks of a keyspace in progress; they outlive their commands. All 16 holders of shares may try four times.
pub const UNLOCKS_MAX: usize = 64;

/// As many more are kept for the server's user and root on the Unix socket: others may wait for a KMS as long as they like.
pub const UNLOCKS_RESERVED: usize = 8;

/// Shortest and longest pause before an unlock with retries calls the KMS again, in µs.
const WATCH_US_MIN: u64 = 500_000;
const WATCH_US_MAX: u64 = 10_000_000;

/// An unlock in progress.
pub(super) struct Unlock {
    id: u32,
    request: UnlockRequest,
    /// The epoch in which it began; a lock since then discards it.
    epoch: Epoch,
    watch: Option<Watch>,
    /// Unlocks that wait for the same KMS continue when it ends.
    is_first: bool,
    stage: Stage,
}

/// Retry state: it is repeated until the KMS answers.
struct Watch {
    attempts: u32,
    wait_us: u64,
}

enum Stage {
    /// The KMS is given its secret.
    OpeningKms,
    /// The DEKs are unwrapped, which verifies that the KMS allows the keyspace to be used.
    Unwrapping,
    /// It pauses before the next call.
    Resting,
    /// Shards are still wiping what a lock takes away.
    Wiping(Deks),
    Writing(Deks),
    /// The change is being published to the shards.
    OpeningShards(Deks),
}

/// The result of a step.
enum Next {
    Waits(Stage),
    MoreShares { given: u8, threshold: u8 },
    Opened,
    Failed(KmsFailure),
}

impl Unlock {
    pub(super) fn name(&self) -> &'static str {
        match self.stage {
            Stage::OpeningKms => "opening-kms",
            Stage::Unwrapping => "unwrapping",
            Stage::Resting => "resting",
            Stage::Wiping(_) => "wiping",
            Stage::Writing(_) => "writing",
            Stage::OpeningShards(_) => "opening-shards",
        }
    }

    /// Returns the keyspace that it unlocks.
    pub(super) fn keyspace(&self) -> u32 {
        self.id
    }
}

impl Control {
    /// Starts an unlock and answers with its ticket.
    pub(super) fn start_unlock(
        &mut self,
        who: Principal,
        id: u32,
        secret: Secret,
        watch: bool,
    ) -> Reply {
        self.in_force.written().keyspace(id)?;
        self.begin_to_unlock(id, who)?;
        let is_share = secret.kind == UnlockKind::Share;
        let ticket = self.beside.tickets.start(id, is_share, who);
        let work = self.works.begin();
        let unlock = Unlock {
            id,
            request: UnlockRequest { ticket, who },
            epoch: self.epoch_of(id),
            watch: watch.then_some(Watch {
                attempts: 0,
                wait_us: WATCH_US_MIN,
            }),
            is_first: true,
            stage: Stage::OpeningKms,
        };
        let next = match self.begin_unlock(work, id, secret) {
            Ok(stage) => Next::Waits(stage),
            Err(failure) => Next::Failed(failure),
        };
        self.go_on(work, unlock, next);
        let mut payload = Vec::new();
        encode_ticket(ticket, &mut payload);
        Ok(payload)
    }

    fn begin_to_unlock(&mut self, id: u32, who: Principal) -> Result<(), Refused> {
        let reserved = match self.owner.is_operator(who) {
            true => UNLOCKS_RESERVED,
            false => 0,
        };
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            if governed.unlocks >= UNLOCKS_MAX + reserved {
                let text = format!(
                    "{UNLOCKS_MAX} unlocks of the keyspace are in progress; wait until they end"
                );
                return Err((Status::Overloaded, text));
            }
            governed.unlocks += 1;
        }
        Ok(())
    }

    fn begin_unlock(&mut self, work: WorkId, id: u32, secret: Secret) -> Result<Stage, KmsFailure> {
        let kms = self.kms_of(id)?;
        self.demand_secret(id, &kms, secret.kind)?;
        match self.open_kms(work, &kms, Some(id), secret)? {
            Opening::UnlockRequest => Ok(Stage::OpeningKms),
            Opening::IsOpen => self.request_unlock_deks(work, id),
        }
    }

    /// Checks that the KMS's secret was given, if it has one, for a keyspace that an operator has locked: the right to
    /// unlock alone does not suffice, even while the KMS is open.
    fn demand_secret(&self, id: u32, kms: &str, given: UnlockKind) -> Result<(), KmsFailure> {
        let need = self.kms.get(kms)?.need;
        let has_none = matches!(need, Need::Nothing | Need::Initialise);
        let is_given = given != UnlockKind::Nothing;
        if is_given || has_none || !self.is_locked(id) || self.kms.without_secret.contains(kms) {
            return Ok(());
        }
        let what = format!(
            "an operator has locked the keyspace, and its KMS {kms} needs {}",
            need.word()
        );
        let class = FailureClass::Locked;
        let remedy = need.remedy_of_keyspace(&self.name_in_messages(id));
        Err(KmsFailure::own(class, what, &remedy))
    }

    /// Returns what to do about a keyspace that is locked, or whose KMS is.
    pub(super) fn unlock_remedy(&self, id: u32) -> String {
        let kms = self.kms_of(id).ok();
        let status = kms
            .as_deref()
            .and_then(|kms| Some((kms, self.kms.get(kms).ok()?)));
        let need = match status {
            // The right to unlock suffices.
            Some((kms, status)) if status.is_open && self.kms.without_secret.contains(kms) => {
                Need::Nothing
            }
            Some((_, status)) => status.need,
            None => Need::Nothing,
        };
        need.remedy_of_keyspace(&self.name_in_messages(id))
    }

    /// Returns `true` if its KMS waits for a secret.
    pub(super) fn is_kms_closed(&self, id: u32) -> bool {
        let kms = self.kms_of(id).ok();
        let status = kms.and_then(|kms| self.kms.get(&kms).ok());
        status.is_some_and(|status| !status.is_open && status.need != Need::Nothing)
    }

    /// Returns the keyspace's name, or a placeholder if it has none any more.
    pub(super) fn name_in_messages(&self, id: u32) -> String {
        let keyspace = self.in_force.written().keyspace(id);
        keyspace.map_or_else(
            |_| "KEYSPACE".to_owned(),
            |keyspace| keyspace.name.to_string(),
        )
    }

    /// Returns the refusal of a command whose keyspace is locked.
    pub(super) fn refuse_locked(&self, id: u32) -> Refused {
        let remedy = self.unlock_remedy(id);
        (
            Status::Conflict,
            format!("the keyspace is locked; {remedy} first"),
        )
    }

    /// Requests an unwrap of the DEKs of a keyspace that may be locked.
    fn request_unlock_deks(&mut self, work: WorkId, id: u32) -> Result<Stage, KmsFailure> {
        let (kms, request) = self.unwrap_request(id)?;
        self.call(work, &kms, request);
        Ok(Stage::Unwrapping)
    }

    pub(super) fn step_unlock(&mut self, work: WorkId, mut unlock: Unlock, event: Event) {
        let id = unlock.id;
        let stage = std::mem::replace(&mut unlock.stage, Stage::Resting);
        let next = match (stage, event) {
            (Stage::OpeningKms, Event::Kms(KmsAnswer::Opened(opened))) => match opened {
                Ok(Unlocked::MoreShares { given, threshold }) => {
                    Next::MoreShares { given, threshold }
                }
                Ok(Unlocked::Open) => waits(self.request_unlock_deks(work, id)),
                Err(failure) => Next::Failed(failure),
            },
            (Stage::Unwrapping, Event::Kms(KmsAnswer::Unwrapped(unwrapped))) => match unwrapped {
                Ok(deks) => self.deks_proven(work, &unlock, deks),
                Err(failure) => self.unwrap_failed(work, &mut unlock, failure),
            },
            (Stage::Resting, Event::Rested) => match self.epoch_of(id) == unlock.epoch {
                true => waits(self.request_unlock_deks(work, id)),
                false => Next::Failed(superseded()),
            },
            (Stage::Wiping(deks), Event::Acknowledged) => self.write_unlock(work, &unlock, deks),
            (Stage::Writing(deks), Event::Settled(outcome)) => {
                self.unlock_written(work, &unlock, outcome, deks)
            }
            (Stage::OpeningShards(deks), Event::Acknowledged) => self.shards_opened(&unlock, deks),
            (stage, _) => Next::Waits(stage),
        };
        self.go_on(work, unlock, next);
    }

    fn go_on(&mut self, work: WorkId, mut unlock: Unlock, next: Next) {
        let (id, ticket) = (unlock.id, unlock.request.ticket);
        let state = match next {
            Next::Waits(stage) => {
                unlock.stage = stage;
                return self.works.wait(work, unlock);
            }
            Next::MoreShares { given, threshold } => UnlockState::MoreShares { given, threshold },
            Next::Opened => UnlockState::Opened,
            Next::Failed(failure) => {
                let state = UnlockState::Failed(failure.to_string());
                self.report(Report::UnlockFailed {
                    keyspace: id,
                    failure,
                });
                state
            }
        };
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            governed.unlocks = governed.unlocks.saturating_sub(1);
        }
        self.beside.tickets.note(id, ticket, state.clone());
        if let UnlockState::Failed(why) = &state {
            self.fail_pending_shares(id, why);
        }
        if unlock.is_first
            && !matches!(state, UnlockState::MoreShares { .. })
            && let Ok(kms) = self.kms_of(id)
        {
            self.finish_unlocks_of(&kms, id);
            if state == UnlockState::Opened {
                self.open_failed_keyspaces_of(&kms);
            }
        }
    }

    /// Continues after the KMS has verified that the keyspace may be used.
    fn deks_proven(&mut self, work: WorkId, unlock: &Unlock, deks: Deks) -> Next {
        let id = unlock.id;
        if self.epoch_of(id) != unlock.epoch {
            return Next::Failed(superseded());
        }
        let state = self.keyspaces.get(&id).map(|governed| governed.state);
        if let Some(State::Locking { since }) = state {
            self.published.wait(work, [(id, Until::Wiped(since))]);
            return Next::Waits(Stage::Wiping(deks));
        }
        self.write_unlock(work, unlock, deks)
    }

    fn write_unlock(&mut self, work: WorkId, unlock: &Unlock, deks: Deks) -> Next {
        let id = unlock.id;
        if self.epoch_of(id) != unlock.epoch {
            return Next::Failed(superseded());
        }
        // The right may have been withdrawn since it began; the command was already answered with the ticket.
        if let Err((_, why)) = self.check_right(id, unlock.request.who, Grants::UNLOCK) {
            return Next::Failed(KmsFailure::of_catalogue(&why));
        }
        let edit = Edit::Lock {
            ids: vec![id],
            locked: false,
            by: self.by(unlock.request.who),
        };
        match self.want(work, edit) {
            Ok(()) => Next::Waits(Stage::Writing(deks)),
            Err((_, why)) => Next::Failed(KmsFailure::of_catalogue(&why)),
        }
    }

    fn unlock_written(
        &mut self,
        work: WorkId,
        unlock: &Unlock,
        outcome: Settlement,
        deks: Deks,
    ) -> Next {
        let id = unlock.id;
        if let Err((_, why)) = settled(outcome) {
            return Next::Failed(KmsFailure::of_catalogue(&why));
        }
        if self.epoch_of(id) != unlock.epoch {
            return Next::Failed(superseded());
        }
        // If it was locked, the write has opened it.
        let state = self.keyspaces.get(&id).map(|governed| governed.state);
        if state != Some(State::Opening) {
            self.open(id);
        }
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            governed.lease = Lease::Available;
        }
        self.wait_until_acted(work, id);
        Next::Waits(Stage::OpeningShards(deks))
    }

    fn shards_opened(&mut self, unlock: &Unlock, deks: Deks) -> Next {
        let id = unlock.id;
        if self.epoch_of(id) != unlock.epoch {
            return Next::Failed(superseded());
        }
        if let Some(governed) = self.keyspaces.get_mut(&id)
            && governed.lease == Lease::Available
        {
            governed.lease = Lease::Idle;
        }
        self.broadcast_lease(id, Ok(deks));
        self.report(Report::Unlocked {
            keyspace: id,
            who: unlock.request.who,
        });
        Next::Opened
    }

    /// Retries later, if the unlock has retries and the failure is transient.
    fn unwrap_failed(&mut self, work: WorkId, unlock: &mut Unlock, failure: KmsFailure) -> Next {
        let id = unlock.id;
        let Some(watch) = &mut unlock.watch else {
            return Next::Failed(failure);
        };
        if !failure.class.is_transient() {
            return Next::Failed(failure);
        }
        watch.attempts += 1;
        let (attempts, wait_us) = (watch.attempts, watch.wait_us);
        watch.wait_us = (wait_us * 2).min(WATCH_US_MAX);
        let wait_us = wait_us.max(failure.class.retry_after_us().unwrap_or(0));
        let state = UnlockState::Asking {
            attempts,
            last_error: Some(failure.to_string()),
        };
        if attempts == 1 {
            self.report(Report::UnlockWaits {
                keyspace: id,
                failure,
            });
        }
        let ticket = unlock.request.ticket;
        if self.epoch_of(id) != unlock.epoch || !self.beside.tickets.note(id, ticket, state) {
            return Next::Failed(superseded());
        }
        self.works.rest(work, self.now.instant.plus_us(wait_us));
        Next::Waits(Stage::Resting)
    }

    /// Fails the unlocks that wait for more shares, after an unlock failed in a way that more shares cannot fix.
    fn fail_pending_shares(&mut self, id: u32, why: &str) {
        let Ok(kms) = self.kms_of(id) else { return };
        let Ok(status) = self.kms.get(&kms) else {
            return;
        };
        if status.is_open {
            // No share is missing: the keyspace itself cannot be opened.
            self.beside.tickets.fail_waiting(id, why);
        } else if status.need == (Need::Shares { given: 0 }) {
            // Enough shares were given, and they were wrong together: the KMS has wiped all of them.
            for (waiting, _) in self.beside.tickets.waiting() {
                if self.kms_of(waiting).is_ok_and(|other| other == kms) {
                    self.beside.tickets.fail_waiting(waiting, why);
                }
            }
        }
    }

    /// Ends other unlocks that wait for more shares of a KMS that is open now.
    pub(super) fn finish_unlocks_of(&mut self, kms: &str, except: u32) {
        let is_open = self.kms.get(kms).is_ok_and(|status| status.is_open);
        if !is_open {
            return;
        }
        for (id, request) in self.beside.tickets.waiting() {
            if id == except || self.kms_of(id).is_ok_and(|other| other != kms) {
                continue;
            }
            if self.begin_to_unlock(id, request.who).is_err() {
                continue;
            }
            let work = self.works.begin();
            let unlock = Unlock {
                id,
                request,
                epoch: self.epoch_of(id),
                watch: None,
                is_first: false,
                stage: Stage::Unwrapping,
            };
            let next = waits(self.request_unlock_deks(work, id));
            self.go_on(work, unlock, next);
        }
    }

    /// Retries keyspaces that failed while the KMS was locked or unreachable, without waiting for their backoff. A shard
    /// that has given up needs this. Keyspaces that an operator has locked stay locked.
    pub(super) fn open_failed_keyspaces_of(&mut self, kms: &str) {
        for id in self.troubles.keyspaces_of(kms) {
            let state = self.keyspaces.get(&id).map(|governed| governed.state);
            if state == Some(State::Open) && !self.is_locked(id) {
                if let Some(governed) = self.keyspaces.get_mut(&id) {
                    governed.opening.count_up();
                }
                self.publish(id, Lane::Ordinary);
            }
        }
    }

    fn kms_of(&self, id: u32) -> Result<String, KmsFailure> {
        match self.in_force.written().keyspace(id) {
            Ok(keyspace) => Ok(keyspace.kms.clone()),
            Err(error) => Err(KmsFailure::of_catalogue(&error)),
        }
    }
}

fn waits(stage: Result<Stage, KmsFailure>) -> Next {
    match stage {
        Ok(stage) => Next::Waits(stage),
        Err(failure) => Next::Failed(failure),
    }
}

fn superseded() -> KmsFailure {
    KmsFailure::own(
        FailureClass::Locked,
        "the keyspace was locked or unlocked again in the meantime",
        "start the unlock again",
    )
}
