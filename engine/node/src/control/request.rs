//! Dispatches commands, and checks their rights.

use keyway_protocol::{Grants, Status};

use super::commands::{Answering, Asker, Begun, Needed};
use super::effect::ControlEffect;
use super::event::Event;
use super::{Control, Refused};
use crate::messages::{Command, Lane, Request};
use crate::policy::{Principal, explain};

impl Control {
    pub(super) fn handle_request(&mut self, from: u16, request: Request) {
        let now = self.now.instant;
        let asker = Asker {
            shard: from,
            token: request.token,
            lane: request.command.lane(),
            who: request.who,
            needed: needed_for(&request.command),
            is_operator: self.owner.is_operator(request.who),
            deadline: request.deadline,
        };
        if request.deadline.is_some_and(|deadline| now >= deadline) {
            // The shard has answered so, except for what may take something away, which may have begun.
            if asker.lane == Lane::Emergency {
                self.send_answer(asker, Err(too_late()));
            }
            return;
        }
        let Some(answering) = self.commands.begin(now, asker) else {
            let text = "too many commands are in progress; try again".to_owned();
            return self.send_answer(asker, Err((Status::Overloaded, text)));
        };
        // The shard checked the right when the request arrived, and the request may have waited since.
        let begun = match self.may_begin(&answering) {
            Ok(()) => self.begin_command(answering, request.who, request.command),
            Err(refused) => Begun::Answered(answering, Err(refused)),
        };
        if let Begun::Answered(answering, answer) = begun {
            self.answer(answering, answer);
        }
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

    /// Refuses a command whose right was withdrawn or whose deadline has passed. Checked when the command begins and
    /// right before each write, since a KMS call may have taken long. The shard that sent the command may have answered
    /// DEADLINE_EXCEEDED on its own.
    pub(super) fn may_begin(&self, answering: &Answering) -> Result<(), Refused> {
        let Some(asker) = self.commands.asker(answering) else {
            return Ok(());
        };
        match asker.needed {
            Needed::Nothing => {}
            Needed::Grant(id, needed) => self.check_right(id, asker.who, needed)?,
            Needed::Everything if self.owner.is_superuser(asker.who) => {}
            Needed::Everything => return Err(forbidden(Grants::NONE)),
        }
        if asker
            .deadline
            .is_some_and(|deadline| self.now.instant >= deadline)
        {
            return Err(too_late());
        }
        Ok(())
    }

    /// Checks that a principal has one of these rights in a keyspace.
    pub(super) fn check_right(
        &self,
        id: u32,
        who: Principal,
        needed: Grants,
    ) -> Result<(), Refused> {
        match self.rights(who, id).intersects(needed) {
            true => Ok(()),
            false => Err(forbidden(needed)),
        }
    }

    /// Returns the rights of a principal in force in a keyspace.
    pub(super) fn rights(&self, who: Principal, id: u32) -> Grants {
        if self.owner.is_superuser(who) {
            return Grants::ALL;
        }
        let policy = self.in_force.policy(id);
        policy.map_or(Grants::NONE, |policy| policy.rights(who))
    }

    fn status(&mut self, answering: Answering, after: u64) -> Begun {
        let work = self.works.begin();
        let question = self.works.question(work, u16::MAX);
        self.effects
            .push_back(ControlEffect::Status { question, after });
        self.works.wait(work, answering);
        Begun::Begun
    }

    pub(super) fn step_status(&mut self, answering: Answering, event: Event) {
        let answer = match event {
            Event::Status(Some(page)) => Ok(page.into_bytes()),
            _ => Err((Status::Internal, "the exporter has stopped".to_owned())),
        };
        self.answer_read(answering, answer);
    }
}

fn needed_for(command: &Command) -> Needed {
    match command.keyspace() {
        Some(id) => Needed::Grant(id, command.opcode().grants()),
        None if matches!(command, Command::List { .. }) => Needed::Nothing,
        None => Needed::Everything,
    }
}

fn too_late() -> Refused {
    let text = "the deadline passed before the change was made; nothing was changed";
    (Status::DeadlineExceeded, text.to_owned())
}

fn forbidden(needed: Grants) -> Refused {
    (Status::Forbidden, explain(needed).to_owned())
}
