//! Requests in flight: connection, authorisation, mesh, shard, and back.

use super::{Asked, Event, Kind, Place, Stage, World, key_id, keyspace_id};
use crate::coverage::Input;
use crate::dice::Dice;
use crate::oracle::{Checked, Seen, ensure};
use crate::plan::{Caller, Name};
use keyway_core::{Admission, Instant, OnSoftExpiry, Refusal, Request, Token, Verdict};
use keyway_core::{Lifecycle, TICK_US};

const MESH: u64 = 2;
const USE: u64 = 3;
/// How long a fast operation takes, µs; a slow one takes fifty times as long.
const USE_US: u64 = 12;

impl World<'_> {
    /// A request comes in on a connection.
    pub(super) fn ask(
        &mut self,
        id: u64,
        by: Caller,
        name: Name,
        kind: Kind,
        deadline_us: Option<u64>,
    ) -> Checked {
        let via = self.shard_at(by.via);
        let by = Caller { via, ..by };
        self.request_count += 1;
        if !by.allowed {
            // Before anything is looked at: nothing that follows depends on the key.
            self.trace
                .note(self.now, || format!("#{id} {by:?} {name:?}: FORBIDDEN"));
            return Ok(());
        }
        let on_connection = self.requests.values().filter(|asked| {
            asked.by.connection == by.connection && !asked.closed && asked.by.via == via
        });
        if on_connection.count() >= self.plan.shape.connection_max {
            self.trace
                .note(self.now, || format!("#{id} too many on a connection"));
            return Ok(());
        }
        let owner = self.owner(name);
        let asked = Asked {
            by,
            name,
            kind,
            owner,
            deadline: deadline_us.map(|us| self.now + us),
            stage: Stage::Travelling,
            called_step: self.step,
            closed: false,
            ticks_overdue: 0,
        };
        self.trace
            .note(self.now, || format!("#{id} {kind:?} of {name:?} at {via}"));
        if owner == via {
            self.requests.insert(id, asked);
            if self.sites[usize::from(via)].stalled_until > self.now {
                self.schedule(0, Place::Shard(via), Event::Process(id));
                return Ok(());
            }
            return self.process(via, id);
        }
        let load = self.mesh_load.entry((via, owner)).or_default();
        if *load >= self.plan.shape.mesh_max {
            self.trace
                .note(self.now, || format!("#{id} OVERLOADED: the mesh is full"));
            return Ok(());
        }
        *load += 1;
        ensure!(
            17,
            *load <= self.plan.shape.mesh_max,
            "{load} requests on the mesh"
        );
        self.requests.insert(id, asked);
        let delay_us = self.mesh_delay_us(id, 0);
        self.schedule(delay_us, Place::Shard(owner), Event::Process(id));
        Ok(())
    }

    fn mesh_delay_us(&self, id: u64, leg: u64) -> u64 {
        Dice::of(self.plan.seed, MESH, id, leg).range(5, 120)
    }

    /// A request has reached its owner.
    pub(super) fn process(&mut self, shard: u16, id: u64) -> Checked {
        let Some(asked) = self.requests.get(&id).cloned() else {
            return Ok(());
        };
        ensure!(
            15,
            asked.by.allowed,
            "#{id}: reached a shard without being allowed to"
        );
        if asked.closed {
            return self.answer(shard, id);
        }
        match asked.kind {
            Kind::Request { .. } => self.request(shard, id, &asked),
            Kind::Force => self.force(shard, id, &asked),
            Kind::Put { .. } if self.plan.writes_wait() => self.want_dek(shard, id, &asked),
            Kind::Put { not_after_us } => self.put(shard, id, &asked, not_after_us),
            Kind::Revoke => self.revoke(shard, id, &asked),
        }
    }

    fn request(&mut self, shard: u16, id: u64, asked: &Asked) -> Checked {
        let name = asked.name;
        self.begin(shard);
        self.cover(shard, self.request_input(asked), name);
        let (now, came_at) = (self.instant(), self.now);
        let (before, terms) = (self.look(shard, name), self.terms_now(shard, name));
        let unwraps = self.tally(shard, name.keyspace).unwraps;
        let loads = self.load_count;
        self.tally(shard, name.keyspace).requests += 1;
        let key = key_id(name);
        let request = Request {
            token: Token(id),
            keyspace: keyspace_id(name.keyspace),
            key_id: &key,
            deadline: asked.deadline.map(Instant::from_micros),
        };
        let verdict = match self.sites[usize::from(shard)]
            .core
            .handle_request(now, request)
        {
            Verdict::Serve(grant) => Ok(Some(Seen::of(&grant))),
            Verdict::Wait => Ok(None),
            Verdict::Refuse(refusal) => Err(refusal),
        };
        self.trace
            .note(self.now, || format!("  #{id}: {verdict:?}"));
        match verdict {
            Ok(Some(seen)) => {
                let tally = self.tally(shard, name.keyspace);
                match seen.stale {
                    true => tally.hits_stale += 1,
                    false => tally.hits_fresh += 1,
                }
                self.check_serve(shard, asked, seen)?;
                if let Kind::Request { slow: true } = asked.kind {
                    self.stage(id, Stage::Slow);
                    let wait_us = Dice::of(self.plan.seed, USE, id, 1).range(20, 4_000);
                    self.schedule(wait_us, Place::Shard(shard), Event::SlowTurn(id));
                } else {
                    self.use_key(shard, id, asked, seen)?;
                }
            }
            Ok(None) => {
                ensure!(
                    22,
                    before.lifecycle != Lifecycle::Stale
                        || terms.on_soft_expiry == OnSoftExpiry::Wait,
                    "{name:?}: waits for a stale key, and the policy is serve_stale"
                );
                let budget_ends_at = self.now + terms.sign_wait_budget_us;
                let until = asked.deadline.unwrap_or(u64::MAX).min(budget_ends_at);
                self.stage(
                    id,
                    Stage::Waiting {
                        until,
                        budget_ends_at,
                    },
                );
                self.tally(shard, name.keyspace).waiting += 1;
            }
            Err(refusal) => {
                self.tally(shard, name.keyspace).refused(refusal);
                self.check_refused_at_once(shard, name, refusal)?;
                self.answer(shard, id)?;
            }
        }
        let expected = match verdict {
            Err(refusal) => refusal == Refusal::Invalid || refusal == Refusal::DeadlineExceeded,
            Ok(_) => false,
        };
        ensure!(
            22,
            before.lifecycle != Lifecycle::Invalid || before.needs_unlock || expected,
            "{name:?}: is INVALID, and the answer is {verdict:?}"
        );
        self.drain(shard)?;
        let asked_kms = self.tally(shard, name.keyspace).unwraps > unwraps;
        ensure!(
            19,
            asked.deadline.is_none_or(|deadline| deadline > came_at)
                || (self.load_count == loads && !asked_kms),
            "{name:?}: a request past its deadline started a load"
        );
        ensure!(
            13,
            before.lifecycle != Lifecycle::Invalid || !asked_kms,
            "{name:?}: is INVALID, and a request for it called the KMS"
        );
        self.check(shard)
    }

    fn request_input(&self, asked: &Asked) -> Input {
        match asked.deadline {
            Some(deadline) if deadline <= self.now => Input::RequestOverdue,
            Some(deadline) if deadline <= self.now + TICK_US => Input::RequestInAHurry,
            _ => Input::Request,
        }
    }

    /// A slow operation's turn has come: it asks for its key again.
    pub(super) fn slow_turn(&mut self, shard: u16, id: u64) -> Checked {
        let Some(asked) = self.requests.get_mut(&id) else {
            return Ok(());
        };
        asked.kind = Kind::Request { slow: false };
        asked.stage = Stage::Travelling;
        self.process(shard, id)
    }

    /// The operation runs, and its result leaves, unless the key's time ends meanwhile.
    fn use_key(&mut self, shard: u16, id: u64, asked: &Asked, seen: Seen) -> Checked {
        let slow = matches!(asked.kind, Kind::Request { slow: true });
        let takes_us = if slow { USE_US * 50 } else { USE_US };
        let leaves_at = self.now + Dice::of(self.plan.seed, USE, id, 2).below(takes_us);
        self.figures.served += 1;
        if leaves_at >= seen.expires_at {
            return self.answer(shard, id);
        }
        let alive = self.oracle.ledger.of(seen.load);
        let terms = self.oracle.terms(shard, asked.name.keyspace);
        let hard = alive.map_or(0, |alive| terms.hard_of(&alive));
        ensure!(
            1,
            leaves_at < hard,
            "{:?}: a result leaves at {leaves_at}, the key ended at {hard}",
            asked.name
        );
        self.answer(shard, id)
    }

    fn check_serve(&mut self, shard: u16, asked: &Asked, seen: Seen) -> Checked {
        let now = self.now;
        self.oracle
            .check_served(now, shard, asked.name, asked.deadline, seen)?;
        ensure!(
            9,
            self.store
                .newest(shard, asked.name)
                .is_none_or(|blob| seen.version <= blob.version),
            "{:?}: version {} was never stored",
            asked.name,
            seen.version
        );
        Ok(())
    }

    /// A wait is over, and here is the key.
    pub(super) fn ready(&mut self, shard: u16, id: u64, seen: Seen) -> Checked {
        let asked = self.waiting(id)?;
        ensure!(
            18,
            asked.owner == shard && matches!(asked.kind, Kind::Request { .. }),
            "#{id}: is a {:?} at {}, and got a key at {shard}",
            asked.kind,
            asked.owner
        );
        let tally = self.tally(shard, asked.name.keyspace);
        tally.ready += 1;
        tally.waiting -= 1;
        self.trace
            .note(self.now, || format!("  #{id} after a wait: {seen:?}"));
        ensure!(
            23,
            self.now < seen.expires_at,
            "#{id}: got {:?} at {}, which ended at {} while others were served",
            asked.name,
            self.now,
            seen.expires_at
        );
        self.check_serve(shard, &asked, seen)?;
        self.use_key(shard, id, &asked, seen)
    }

    /// A wait is over, and the answer is no.
    pub(super) fn refused(&mut self, shard: u16, id: u64, refusal: Refusal) -> Checked {
        let asked = self.waiting(id)?;
        self.trace
            .note(self.now, || format!("  #{id} after a wait: {refusal:?}"));
        let tally = self.tally(shard, asked.name.keyspace);
        match asked.kind {
            Kind::Force => {
                tally.force_refused += 1;
                tally.force_waiting -= 1;
            }
            Kind::Request { .. } => {
                tally.refused(refusal);
                tally.waiting -= 1;
            }
            Kind::Put { .. } | Kind::Revoke => {
                tally.dek_waiting -= 1;
                self.check_no_dek(shard, asked.name, refusal)?;
                return self.answer(shard, id);
            }
        }
        self.check_refusal(shard, asked.name, refusal)?;
        self.answer(shard, id)
    }

    /// The request that waits under this token.
    pub(super) fn waiting(&self, id: u64) -> Checked<Asked> {
        let asked = self.requests.get(&id).cloned();
        let waits = asked.filter(|asked| matches!(asked.stage, Stage::Waiting { .. }));
        waits.ok_or_else(|| crate::oracle::Violation {
            invariant: 18,
            what: format!("#{id}: got an answer, and does not wait for one"),
        })
    }

    fn force(&mut self, shard: u16, id: u64, asked: &Asked) -> Checked {
        let name = asked.name;
        self.begin(shard);
        self.cover(shard, Input::Force, name);
        if let Some(waits) = self.requests.get_mut(&id) {
            waits.called_step = self.step;
        }
        let now = self.instant();
        let deadline = asked.deadline.map(Instant::from_micros);
        let (space, key) = (keyspace_id(name.keyspace), key_id(name));
        let core = &mut self.sites[usize::from(shard)].core;
        let admission = core.handle_force_refresh(now, Token(id), space, &key, deadline);
        self.trace
            .note(self.now, || format!("  #{id}: {admission:?}"));
        let tally = self.tally(shard, name.keyspace);
        tally.force += 1;
        match admission {
            Admission::Waiting => {
                tally.force_waiting += 1;
                let longest = self.now + 3 * self.plan.shape.limits.flight_time_limit_us;
                let until = asked.deadline.unwrap_or(u64::MAX).min(longest);
                let budget_ends_at = u64::MAX;
                self.stage(
                    id,
                    Stage::Waiting {
                        until,
                        budget_ends_at,
                    },
                );
            }
            Admission::Refused(refusal) => {
                tally.force_refused += 1;
                self.check_refused_at_once(shard, name, refusal)?;
                self.answer(shard, id)?;
            }
        }
        self.turn(shard)
    }

    pub(super) fn refreshed(&mut self, shard: u16, id: u64, version: u32) -> Checked {
        let asked = self.waiting(id)?;
        ensure!(
            18,
            asked.kind == Kind::Force,
            "#{id}: is a {:?}, and was refreshed",
            asked.kind
        );
        let tally = self.tally(shard, asked.name.keyspace);
        tally.refreshed += 1;
        tally.force_waiting -= 1;
        let promised = self.oracle.promised(asked.name);
        ensure!(
            9,
            version >= promised.served_version,
            "{:?}: refreshed to version {version} after version {}",
            asked.name,
            promised.served_version
        );
        promised.refreshed_step = promised.refreshed_step.max(asked.called_step);
        self.trace
            .note(self.now, || format!("  #{id}: refreshed to {version}"));
        let alive = self.oracle.ledger.alive.borrow();
        let older = alive
            .values()
            .find(|alive| alive.name == asked.name && alive.started_step < asked.called_step);
        ensure!(
            10,
            older.is_none(),
            "{:?}: refreshed, and what is there is older: {older:?}",
            asked.name
        );
        drop(alive);
        self.answer(shard, id)
    }

    pub(super) fn stage(&mut self, id: u64, stage: Stage) {
        if let Some(asked) = self.requests.get_mut(&id) {
            asked.stage = stage;
        }
    }

    /// The one answer to a request, at the shard that owns the key.
    pub(super) fn answer(&mut self, shard: u16, id: u64) -> Checked {
        let Some(asked) = self.requests.get_mut(&id) else {
            ensure!(
                18,
                false,
                "#{id}: a second answer, or one without a request"
            );
            return Ok(());
        };
        ensure!(
            18,
            !matches!(asked.stage, Stage::Answered),
            "#{id}: a second answer"
        );
        asked.stage = Stage::Answered;
        if asked.by.via == shard {
            return self.deliver(id);
        }
        let via = asked.by.via;
        let delay_us = self.mesh_delay_us(id, 1);
        self.schedule(delay_us, Place::Shard(via), Event::Deliver(id));
        Ok(())
    }

    /// The answer reaches the client, if it is still there.
    pub(super) fn deliver(&mut self, id: u64) -> Checked {
        let Some(asked) = self.requests.remove(&id) else {
            ensure!(18, false, "#{id}: a second delivery");
            return Ok(());
        };
        ensure!(18, self.over.insert(id), "#{id}: was answered before");
        if asked.owner != asked.by.via
            && let Some(load) = self.mesh_load.get_mut(&(asked.by.via, asked.owner))
        {
            *load -= 1;
        }
        Ok(())
    }

    /// A client has left, and its request waits, or is in flight.
    pub(super) fn gone(&mut self, shard: u16, id: u64) -> Checked {
        let Some(asked) = self.requests.get(&id).cloned() else {
            return Ok(());
        };
        if !matches!(asked.stage, Stage::Waiting { .. }) {
            return Ok(());
        }
        let name = asked.name;
        self.begin(shard);
        // A put waits for a DEK, not for a flight of its key.
        if !matches!(asked.kind, Kind::Put { .. }) {
            self.cover(shard, Input::WaiterGone, name);
        }
        let before = self.look(shard, name);
        let flights = self.sites[usize::from(shard)].core.totals().flights;
        let now = self.instant();
        let core = &mut self.sites[usize::from(shard)].core;
        core.handle_waiter_gone(now, Token(id));
        let action = core.poll_action();
        ensure!(7, action.is_none(), "#{id}: left, and caused {action:?}");
        let flights_after = core.totals().flights;
        let after = self.look(shard, name);
        ensure!(
            7,
            before == after && flights == flights_after,
            "#{id}: left, and changed {before:?} to {after:?}"
        );
        self.trace.note(self.now, || format!("  #{id}: left"));
        let tally = self.tally(shard, name.keyspace);
        match asked.kind {
            Kind::Force => {
                tally.force_abandoned += 1;
                tally.force_waiting -= 1;
            }
            Kind::Request { .. } => {
                tally.abandoned += 1;
                tally.waiting -= 1;
            }
            Kind::Put { .. } | Kind::Revoke => tally.dek_waiting -= 1,
        }
        self.deliver(id)?;
        self.check(shard)
    }
}
