//! Commands: what a request asks for, and whether it may.

use keyway_protocol::{Grants, Status};

use super::commands::Answering;
use super::effect::ControlEffect;
use super::works::{Event, Work};
use super::{Answer, Control, Refused};
use crate::messages::{Command, Lane, Request, ToShard};
use crate::policy::{CompiledPolicy, Principal, why_forbidden};

/// What becomes of a command.
pub(super) enum Begun {
    /// It is answered now.
    Answered(Answering, Answer),
    /// A work has it.
    Begun,
}

impl Control {
    pub(super) fn handle_request(&mut self, from: u16, request: Request) {
        let now = self.now.instant;
        if request.deadline.is_some_and(|deadline| now >= deadline) {
            // The shard has answered DEADLINE_EXCEEDED, or is about to.
            return;
        }
        let lane = request.command.lane();
        let place = (from, request.token);
        let begun = self.commands.begin(now, place, lane, request.deadline);
        let Some(answering) = begun else {
            return self.refuse_overloaded(from, request.token, lane);
        };
        // The shard looked when the request came in, and it may have waited since.
        let may = match request.command.keyspace() {
            Some(id) => self.check_right(id, request.who, request.needed),
            None => Ok(()),
        };
        let begun = match may {
            Ok(()) => self.begin_command(answering, request.who, request.command),
            Err(refused) => Begun::Answered(answering, Err(refused)),
        };
        if let Begun::Answered(answering, answer) = begun {
            self.answer(answering, answer);
        }
    }

    fn refuse_overloaded(&mut self, shard: u16, token: u64, lane: Lane) {
        let text = "too many commands are under way; try again";
        let message = ToShard::Answer {
            token,
            status: Status::Overloaded,
            payload: text.as_bytes().to_vec().into(),
        };
        self.tell(shard, lane, message);
    }

    fn begin_command(&mut self, answering: Answering, who: Principal, command: Command) -> Begun {
        let answer = match command {
            Command::Create { name, kms, change } => {
                return self.create(answering, who, name, kms, change);
            }
            Command::Set { keyspace, change } => return self.set(answering, who, keyspace, change),
            Command::Lock { keyspace } => return self.lock(answering, who, vec![keyspace]),
            Command::LockKms { kms } => return self.lock_kms(answering, who, &kms),
            Command::LockAll => return self.lock_all(answering, who),
            Command::Rotate { keyspace } => return self.rotate(answering, who, keyspace),
            Command::DestroyDeks { keyspace } => {
                return self.destroy_deks(answering, who, keyspace);
            }
            Command::Rewrap { keyspace, kms } => {
                return self.rewrap(answering, who, keyspace, kms);
            }
            Command::Initialise {
                kms,
                shares,
                threshold,
                passphrase,
            } => return self.initialise(answering, kms, (shares, threshold), passphrase),
            Command::UnlockKms { kms, secret } => return self.unlock_kms(answering, kms, secret),
            Command::UnlockStatus { keyspace, ticket } => {
                return self.unlock_status(answering, keyspace, ticket);
            }
            Command::Hot {
                keyspace,
                by,
                keys_max,
            } => return self.hot(answering, keyspace, by, keys_max),
            Command::Status { after } => return self.status(answering, after),
            Command::Unlock {
                keyspace,
                secret,
                watch,
            } => self.start_unlock(who, keyspace, secret, watch),
            Command::List { after, visible } => Ok(self.list(who, after, &visible)),
            Command::History { keyspace } => self.history(keyspace),
        };
        Begun::Answered(answering, answer)
    }

    /// Whether a principal has one of these rights in a keyspace, as is in force now.
    fn check_right(&self, id: u32, who: Principal, needed: Grants) -> Result<(), Refused> {
        if self.owner.may_everything(who) {
            return Ok(());
        }
        let guard = self.in_force.guard(id);
        let rights = guard.map(|guard| CompiledPolicy::new(&guard.policy).rights(&self.owner, who));
        match rights {
            Ok(rights) if rights.intersects(needed) => Ok(()),
            _ => Err((Status::Forbidden, why_forbidden(needed).to_owned())),
        }
    }

    /// Refuses a command, right before its write, whose deadline has passed: no write begins then, however long the KMS
    /// took to answer before it. The shard that handed the command over answers by itself.
    pub(super) fn may_begin(&self, answering: &Answering) -> Result<(), Refused> {
        if self.commands.is_late(answering, self.now.instant) {
            let text = "the deadline passed before the change was made; nothing was changed";
            return Err((Status::DeadlineExceeded, text.to_owned()));
        }
        Ok(())
    }

    fn status(&mut self, answering: Answering, after: u64) -> Begun {
        let work = self.works.begin();
        let question = self.works.question(work, u16::MAX);
        self.effects
            .push_back(ControlEffect::Status { question, after });
        self.works.wait(work, Work::Status(answering));
        Begun::Begun
    }

    pub(super) fn step_status(&mut self, answering: Answering, event: Event) {
        let answer = match event {
            Event::Status(Some(page)) => Ok(page.into_bytes()),
            _ => Err((Status::Internal, "the exporter has stopped".to_owned())),
        };
        self.answer(answering, answer);
    }
}
