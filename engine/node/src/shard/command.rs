//! Administrators' requests, which are passed to control.

use keyway_protocol::{Custody, KmsInit, Request, RequestFrame, ResponseHead, Settings, Status};

use super::Shard;
use super::job::Stage;
use super::places::Purpose;
use super::port::Port;
use super::refusal::overloaded;
use super::use_key::Asked;
use crate::catalogue::SettingsChange;
use crate::connection::CONTROL_RESERVED;
use crate::messages::{self, Command, Lane, Secret, ToControl};

/// What KEYSPACE_LIST answers to a principal that may see none.
const NO_KEYSPACES: &str = r#"{"keyspaces":[],"more":false}"#;

/// Messages that control's lanes have room for, as the driver has last seen.
#[derive(Clone, Copy, Debug)]
pub struct ControlRoom {
    /// In the emergency lane.
    pub emergency: usize,
    /// In the ordinary lane.
    pub ordinary: usize,
}

impl Default for ControlRoom {
    fn default() -> Self {
        ControlRoom {
            emergency: usize::MAX,
            ordinary: usize::MAX,
        }
    }
}

impl ControlRoom {
    fn of(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane::Emergency => &mut self.emergency,
            Lane::Ordinary => &mut self.ordinary,
        }
    }
}

impl<P: Port> Shard<P> {
    /// Hands a request to control, or answers at once what control need not be asked.
    pub(super) fn command(
        &mut self,
        asked: Asked<'_>,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
    ) {
        let visible = match request {
            Request::KeyspaceList { .. } => {
                let visible = self.governed.visible(asked.allowed.who());
                if visible.is_empty() {
                    // A principal that may see nothing does not get to load control.
                    return self.out.answer(asked.responder, |payload| {
                        payload.extend_from_slice(NO_KEYSPACES.as_bytes());
                        Ok(ResponseHead::OK)
                    });
                }
                visible
            }
            _ => Vec::new(),
        };
        match command_of(frame.keyspace_id, request, visible) {
            Ok(command) => self.send_to_control(asked, command),
            Err(text) => self
                .out
                .refuse(asked.responder, Status::BadRequest, text.into()),
        }
    }

    fn send_to_control(&mut self, asked: Asked<'_>, command: Command) {
        let who = asked.allowed.who();
        let lane = command.lane();
        let purpose = match lane {
            Lane::Emergency => Purpose::Command,
            Lane::Ordinary => Purpose::Request,
        };
        let claim = self.claim(&asked, purpose);
        let room = self.upkeep.control_room.of(lane);
        let reserved = match claim.is_operator {
            true => 0,
            false => CONTROL_RESERVED,
        };
        let kept = match *room > reserved {
            true => self.jobs.keep_nothing(claim, None),
            false => None,
        };
        let Some(kept) = kept else {
            return self.refuse_as(asked.responder, overloaded(100_000));
        };
        *room = room.saturating_sub(1);
        let stage = match command.only_reads() {
            true => Stage::Reported,
            false => Stage::Control {
                takes_away: lane == Lane::Emergency,
            },
        };
        let request = messages::Request {
            token: self.jobs.next_token().0,
            who,
            deadline: asked.deadline,
            command,
        };
        self.jobs.park(asked.into_job(kept, stage));
        self.out.tell_control(ToControl::Request(request));
        self.upkeep.counts.control_requests_total += 1;
    }
}

/// Returns what a request asks of control.
///
/// # Errors
/// Settings or grants that are none.
fn command_of(keyspace: u32, request: &Request<'_>, visible: Vec<u32>) -> Result<Command, String> {
    Ok(match request {
        Request::KeyspaceCreate(create) => {
            let (kms, change) = without_kms(&create.settings)?;
            let change = change.without_end().map_err(|error| error.to_string())?;
            Command::Create {
                name: create.name.to_owned(),
                kms,
                change,
            }
        }
        Request::KeyspaceSet(settings) => Command::Set {
            keyspace,
            change: change_of(settings.iter())?,
        },
        Request::KeyspaceList { after } => Command::List {
            after: *after,
            visible,
        },
        Request::Lock => Command::Lock { keyspace },
        Request::KeyspaceRotate => Command::Rotate { keyspace },
        Request::KeyspaceDestroyDeks => Command::DestroyDeks { keyspace },
        Request::KeyspaceHistory => Command::History { keyspace },
        Request::KeyspaceRewrap { kms } => Command::Rewrap {
            keyspace,
            kms: (*kms).to_owned(),
        },
        Request::KeyspaceHot(hot) => Command::Hot {
            keyspace,
            by: hot.by,
            keys_max: usize::from(hot.keys_max()),
        },
        Request::Unlock(unlock) => Command::Unlock {
            keyspace,
            secret: Secret {
                kind: unlock.kind,
                bytes: unlock.secret.to_vec().into(),
                force: unlock.force,
            },
            watch: unlock.watch,
        },
        Request::UnlockStatus { ticket } => Command::UnlockStatus {
            keyspace,
            ticket: *ticket,
        },
        Request::Status { after } => Command::Status { after: *after },
        Request::KmsInit(init) => initialise(init),
        Request::KmsLock { kms } => Command::LockKms {
            kms: (*kms).to_owned(),
        },
        Request::LockAll => Command::LockAll,
        Request::KmsUnlock(unlock) => Command::UnlockKms {
            kms: unlock.kms.to_owned(),
            secret: Secret {
                kind: unlock.kind,
                bytes: unlock.secret.to_vec().into(),
                force: unlock.force,
            },
        },
        _ => return Err("this operation is not a command".to_owned()),
    })
}

fn change_of<'a>(
    settings: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<SettingsChange, String> {
    SettingsChange::parse(settings).map_err(|error| error.to_string())
}

/// Returns the KMS that is named among the settings of a new keyspace, and the rest of them.
fn without_kms(settings: &Settings<'_>) -> Result<(Option<String>, SettingsChange), String> {
    let kms = settings.iter().filter(|(name, _)| *name == "kms").last();
    let rest = settings.iter().filter(|(name, _)| *name != "kms");
    Ok((kms.map(|(_, kms)| kms.to_owned()), change_of(rest)?))
}

fn initialise(init: &KmsInit<'_>) -> Command {
    let (shares, threshold, passphrase) = match init.custody {
        Custody::Passphrase(passphrase) => (0, 0, passphrase.to_vec()),
        Custody::Shares { count, threshold } => (count, threshold, Vec::new()),
    };
    Command::Initialise {
        kms: init.kms.to_owned(),
        shares,
        threshold,
        passphrase: passphrase.into(),
    }
}
