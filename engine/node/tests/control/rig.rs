//! A control with two shards, a KMS and a disk that the test drives step by step.

use std::collections::{BTreeMap, VecDeque};

use keyway_core::{Instant, LeaseEvent};
use keyway_node::catalogue::{Catalogue, ChangeAuthor, NewKeyspace, SettingsChange, WrappedDek};
use keyway_node::control::hot_keys::HotKeys;
use keyway_node::control::{
    Control, ControlEffect, Deks, FailureClass, KmsAnswer, KmsFailure, KmsRequest, KmsSet,
    KmsStatus, Need, NewDek, Report, Settings, Unlocked,
};
use keyway_node::hot::{Estimate, HotShare, RankedKey};
use keyway_node::ids::{CallId, Epoch, QuestionId, Revision, WriteId};
use keyway_node::keyspace_change::Guard;
use keyway_node::messages::{
    Command, DekBytes, Lane, Request, ResealError, ResealPage, Secret, ToControl, ToShard,
    UnlockProgress,
};
use keyway_node::policy::{Owner, Principal};
use keyway_node::time::Moment;
use keyway_protocol::{Grants, Status, UnlockKind};

pub const SHARDS: u16 = 2;
pub const PROD: u32 = 1;
pub const KMS: &str = "bao";
pub const OTHER_KMS: &str = "aws";

/// The server's user.
pub const OWNER: Principal = Principal::Uid(500);
/// A user with the right to sign, and no other.
pub const SIGNER: Principal = Principal::Uid(7);

/// A shard as control sees it.
#[derive(Default)]
pub struct Shard {
    pub revision: Revision,
    pub epoch: Epoch,
    pub floor: u32,
    pub is_locked: bool,
    /// What was published last, if anything was.
    pub guard: Option<Guard>,
    /// Acknowledgements that it has not sent.
    pub acts: VecDeque<(u32, Revision)>,
    pub wipes: VecDeque<(u32, Epoch)>,
    pub confirms: VecDeque<(u32, u32)>,
    pub pages: VecDeque<(QuestionId, u32)>,
    pub progress: VecDeque<QuestionId>,
    pub hot: VecDeque<QuestionId>,
    pub has_stopped: bool,
}

pub struct Rig {
    pub control: Control,
    pub now: Moment,
    pub shards: Vec<Shard>,
    pub calls: VecDeque<(CallId, String, KmsRequest)>,
    pub write: Option<(WriteId, Catalogue)>,
    /// The catalogue that was written last.
    pub disk: Catalogue,
    pub answers: BTreeMap<u64, Vec<(Status, Vec<u8>)>>,
    /// Effects since they were last taken, as text.
    pub out: Vec<String>,
    pub reports: Vec<Report>,
    /// The leases of all shards have ended.
    pub is_lease_over: bool,
    last_token: u64,
}

pub fn moment(us: u64) -> Moment {
    Moment {
        unix_ms: 1_000_000_000_000 + us / 1_000,
        instant: Instant::from_micros(1_000_000_000 + us),
    }
}

fn catalogue() -> Catalogue {
    let grants = [("allow:uid:7", "sign")];
    let change = SettingsChange::parse(grants).expect("the settings are valid");
    let new = NewKeyspace {
        name: "prod",
        change: &change,
        kms: KMS,
        record: b"dek-1",
    };
    let mut catalogue = Catalogue::default();
    let made = catalogue.create(new, &ChangeAuthor::server(moment(0)));
    assert_eq!(made, Ok(PROD));
    catalogue
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(catalogue())
    }

    /// Creates a rig with DEK 1 retired, and DEK 2 in use.
    pub fn with_retired() -> Rig {
        let by = ChangeAuthor::server(moment(0));
        let mut catalogue = catalogue();
        let dek = WrappedDek {
            generation: 2,
            record: b"dek-2".to_vec(),
        };
        let added = catalogue.add_dek(PROD, &dek, &by);
        added
            .and_then(|()| catalogue.retire_deks(PROD, &by))
            .expect("one exists");
        Rig::with(catalogue)
    }

    fn with(catalogue: Catalogue) -> Rig {
        let status = KmsStatus {
            is_open: true,
            need: Need::Passphrase,
            is_checked: true,
        };
        let kms = KmsSet {
            status: [(KMS.to_owned(), status), (OTHER_KMS.to_owned(), status)].into(),
            default: KMS.to_owned(),
            without_secret: Default::default(),
        };
        let settings = Settings {
            shards: SHARDS,
            owner: Owner {
                dev: false,
                uid: 500,
            },
            ticket_key: 42,
            page_key_ids: true,
        };
        let hot_keys = HotKeys::new(vec![Vec::new(); usize::from(SHARDS)]);
        let now = moment(0);
        let mut control = Control::new(now, settings, catalogue.clone(), kms, hot_keys);
        let at_start = control.keyspaces_at_start();
        let shard = || Shard {
            floor: at_start[0].seal_floor,
            is_locked: at_start[0].guard.locked,
            guard: Some(at_start[0].guard.clone()),
            ..Shard::default()
        };
        let mut rig = Rig {
            control,
            now,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            calls: VecDeque::new(),
            write: None,
            disk: catalogue,
            answers: BTreeMap::new(),
            out: Vec::new(),
            reports: Vec::new(),
            is_lease_over: false,
            last_token: 0,
        };
        rig.control.handle_start(now);
        rig.control.handle_tick(now);
        rig.drain();
        rig.out.clear();
        rig
    }

    pub fn set_kms(&mut self, is_open: bool, is_checked: bool) {
        let status = KmsStatus {
            is_open,
            need: Need::Passphrase,
            is_checked,
        };
        for kms in [KMS, OTHER_KMS] {
            self.control.handle_kms_status(kms, status);
        }
    }

    /// Sends a command through shard 0. Returns its token.
    pub fn command(&mut self, who: Principal, command: Command) -> u64 {
        self.command_until(None, who, command)
    }

    /// As [`Rig::command`], with a deadline.
    pub fn command_until(
        &mut self,
        deadline: Option<Instant>,
        who: Principal,
        command: Command,
    ) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        let request = Request {
            token,
            who,
            deadline,
            command,
        };
        self.from(0, ToControl::Request(request));
        token
    }

    pub fn unlock(&mut self, kind: UnlockKind, watch: bool) -> u64 {
        let secret = Secret {
            kind,
            bytes: b"secret".to_vec().into(),
            force: false,
        };
        let keyspace = PROD;
        self.command(
            OWNER,
            Command::Unlock {
                keyspace,
                secret,
                watch,
            },
        )
    }

    pub fn from(&mut self, shard: u16, message: ToControl) {
        self.control.handle_shard(self.now, shard, message);
        self.drain();
    }

    pub fn pass(&mut self, us: u64) {
        let us_before = self.now.instant.as_micros() - 1_000_000_000;
        self.now = moment(us_before + us);
        self.control.handle_tick(self.now);
        self.drain();
    }

    /// Answers the oldest call. Returns `false` if there is none.
    pub fn answer_kms(&mut self, is_well: bool) -> bool {
        let Some((call, _, request)) = self.calls.pop_front() else {
            return false;
        };
        let answer = match is_well {
            true => self.answer_to(request),
            false => request.failed(KmsFailure {
                class: FailureClass::Unavailable {
                    retry_after_us: None,
                },
                cause: "unknown",
                what: "away".to_owned(),
                remedy: "wait".to_owned(),
            }),
        };
        self.control.handle_kms(self.now, call, answer);
        self.drain();
        true
    }

    /// Answers the oldest call, an unlock of the KMS, with the number of shares given; three are required.
    pub fn take_share(&mut self, given: u8) {
        let (call, _, request) = self.calls.pop_front().expect("a call");
        assert!(matches!(request, KmsRequest::Open { .. }));
        let unlocked = match given {
            3 => Unlocked::Open,
            given => Unlocked::MoreShares {
                given,
                threshold: 3,
            },
        };
        for kms in [KMS, OTHER_KMS] {
            let status = KmsStatus {
                is_open: given == 3,
                need: Need::Shares { given: given % 3 },
                is_checked: true,
            };
            self.control.handle_kms_status(kms, status);
        }
        let answer = KmsAnswer::Opened(Ok(unlocked));
        self.control.handle_kms(self.now, call, answer);
        self.drain();
    }

    fn answer_to(&self, request: KmsRequest) -> KmsAnswer {
        let copy = |generation| {
            Box::new(DekBytes {
                generation,
                bytes: [generation as u8; 32].into(),
            })
        };
        let sent_at = self.now.instant;
        match request {
            KmsRequest::Check(_) => KmsAnswer::Checked(Ok(())),
            KmsRequest::Unwrap { deks, .. } => {
                let deks = deks.iter().map(|dek| copy(dek.generation)).collect();
                KmsAnswer::Unwrapped(Ok(Deks { sent_at, deks }))
            }
            KmsRequest::NewDek { generation, .. } => KmsAnswer::Made(Ok(NewDek {
                sent_at,
                record: format!("dek-{generation}").into_bytes(),
                dek: copy(generation),
            })),
            KmsRequest::Move {
                in_use, retired, ..
            } => {
                let deks = in_use.iter().map(|dek| copy(dek.generation)).collect();
                let records = in_use.into_iter().chain(retired).collect();
                KmsAnswer::Moved(Ok((Deks { sent_at, deks }, records)))
            }
            KmsRequest::Open { .. } => KmsAnswer::Opened(Ok(Unlocked::Open)),
            KmsRequest::Initialise { .. } => KmsAnswer::Initialised(Ok((Vec::new().into(), 0))),
        }
    }

    /// Ends the write in progress. Returns `false` if there is none.
    pub fn end_write(&mut self, is_well: bool) -> bool {
        let Some((write, catalogue)) = self.write.take() else {
            return false;
        };
        let result = match is_well {
            true => {
                self.disk = catalogue;
                Ok(())
            }
            false => Err("no space".to_owned()),
        };
        self.control.handle_saved(self.now, write, result);
        self.drain();
        true
    }

    /// Acknowledges at every shard the changes that it has applied. Returns `false` if there are none.
    pub fn act(&mut self) -> bool {
        self.each_shard(|shard| {
            let (keyspace, revision) = shard.acts.pop_front()?;
            Some(ToControl::Acted { keyspace, revision })
        })
    }

    /// Reports at every shard that it has wiped what is locked.
    pub fn wipe(&mut self) -> bool {
        self.each_shard(|shard| {
            let (keyspace, epoch) = shard.wipes.pop_front()?;
            Some(ToControl::Wiped { keyspace, epoch })
        })
    }

    /// Confirms the seal floor at every shard.
    pub fn confirm(&mut self) -> bool {
        self.each_shard(|shard| {
            let (keyspace, generation) = shard.confirms.pop_front()?;
            Some(ToControl::Confirmed {
                keyspace,
                generation,
            })
        })
    }

    /// Answers every request for blobs.
    pub fn pages(&mut self, page: impl Fn(u32) -> Result<ResealPage, ResealError>) -> bool {
        self.each_shard(|shard| {
            let (question, _) = shard.pages.pop_front()?;
            let page = page(shard.floor);
            Some(ToControl::Resealed { question, page })
        })
    }

    /// Answers every other request.
    pub fn tell(&mut self) -> bool {
        let progress = UnlockProgress {
            ticket: u64::MAX,
            is_open: !self.is_lease_over,
            is_reloaded: !self.is_lease_over,
            keys_reloaded: 0,
        };
        let told = self.each_shard(|shard| {
            let question = shard.progress.pop_front()?;
            Some(ToControl::Progress { question, progress })
        });
        told | self.each_shard(|shard| {
            let question = shard.hot.pop_front()?;
            let share = Some(share());
            Some(ToControl::Hot { question, share })
        })
    }

    fn each_shard(&mut self, next: impl Fn(&mut Shard) -> Option<ToControl>) -> bool {
        let mut is_any = false;
        // Requests that an answer causes are not answered here.
        let mut messages = Vec::new();
        for (index, shard) in (0..).zip(&mut self.shards) {
            while !shard.has_stopped
                && let Some(message) = next(shard)
            {
                messages.push((index, message));
            }
        }
        for (index, message) in messages {
            is_any = true;
            self.from(index, message);
        }
        is_any
    }

    /// Returns what a user may do at any shard, whether it has acknowledged that or not.
    pub fn rights_at_shards(&self, uid: u32) -> Grants {
        let rights = self
            .shards
            .iter()
            .filter_map(|shard| Some(shard.guard.as_ref()?.policy.rights(Principal::Uid(uid))));
        rights.fold(Grants::NONE, Grants::union)
    }

    /// Returns the settings published last.
    pub fn settings_at_shards(&self) -> keyway_core::Settings {
        let mut guards = self
            .shards
            .iter()
            .rev()
            .filter_map(|shard| shard.guard.as_ref());
        guards
            .next()
            .map(|guard| guard.settings.clone())
            .unwrap_or_default()
    }

    pub fn stop(&mut self, shard: u16) {
        self.shards[usize::from(shard)].has_stopped = true;
        self.control.handle_shard_stopped(self.now, shard);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.control.poll_effect() {
            match effect {
                ControlEffect::Tell {
                    shard,
                    lane,
                    message,
                } => self.take(shard, lane, message),
                ControlEffect::Kms { call, kms, request } => {
                    self.out.push(format!("kms {}", name_of(&request)));
                    self.calls.push_back((call, kms, request));
                }
                ControlEffect::LockKms { kms } => self.out.push(format!("lock kms {kms}")),
                ControlEffect::Hurry { .. } => self.out.push("hurry".to_owned()),
                ControlEffect::Save { write, catalogue } => {
                    assert!(self.write.is_none(), "one write at a time");
                    self.out.push("save".to_owned());
                    self.write = Some((write, catalogue));
                }
                ControlEffect::SaveHotKeys { .. } => self.control.handle_hot_keys_saved(),
                ControlEffect::Status { question, .. } => {
                    let page = Some("{}".to_owned());
                    self.control.handle_status(self.now, question, page);
                }
                ControlEffect::Report(report) => self.reports.push(report),
                ControlEffect::Figures(_) => {}
            }
        }
    }

    fn take(&mut self, index: u16, lane: Lane, message: ToShard) {
        let way = match lane {
            Lane::Emergency => "!",
            Lane::Ordinary => "",
        };
        let shard = &mut self.shards[usize::from(index)];
        let is_first = index == 0;
        match message {
            ToShard::Keyspace(change) => {
                if is_first {
                    let words = match (change.guard.locked, change.opening.0) {
                        (true, _) => "locked".to_owned(),
                        (false, 0) => "open".to_owned(),
                        (false, opening) => format!("open, unlock {opening}"),
                    };
                    self.out.push(format!(
                        "{way}change: {words}, floor {}, oldest {}",
                        change.seal_floor, change.oldest
                    ));
                }
                shard.take(&change);
            }
            ToShard::Lease { event, epoch, .. } => {
                if is_first {
                    self.out.push(format!("{way}lease {}", lease_word(event)));
                }
                if matches!(event, LeaseEvent::Granted { .. }) {
                    assert!(
                        !shard.is_locked || epoch < shard.epoch,
                        "a DEK for a locked keyspace"
                    );
                }
            }
            ToShard::Reseal {
                question,
                generation,
                work,
                ..
            } => {
                self.out.push(format!("{way}{work:?} on {index}"));
                shard.pages.push_back((question, generation));
            }
            ToShard::Progress { question, .. } => shard.progress.push_back(question),
            ToShard::Hot { question, .. } => shard.hot.push_back(question),
            ToShard::Answer {
                token,
                status,
                payload,
            } => {
                self.out.push(format!("{way}answer {status:?}"));
                let answers = self.answers.entry(token).or_default();
                answers.push((status, payload.to_vec()));
            }
        }
    }
}

/// The hot keys of a shard: one, `alice`.
fn share() -> HotShare {
    HotShare {
        shard: 0,
        keys: vec![RankedKey {
            key_id: b"alice".as_slice().into(),
            figures: [Estimate::at_most(1); 3],
        }],
        unlisted_max: 0,
        totals: [1; 3],
        window_us: 1,
        requests_counted_one_in: 1,
    }
}

impl Shard {
    /// Asserts that revisions only rise, in whatever order changes arrive; a change carries the complete state.
    fn take(&mut self, change: &keyway_node::keyspace_change::KeyspaceChange) {
        self.acts.push_back((change.id, change.revision));
        if change.id != PROD {
            let is_locked = change.guard.locked;
            let wiped = is_locked.then_some((change.id, change.epoch));
            return self.wipes.extend(wiped);
        }
        if change.revision < self.revision {
            return;
        }
        self.revision = change.revision;
        assert!(change.epoch >= self.epoch && change.seal_floor >= self.floor);
        self.epoch = change.epoch;
        self.is_locked = change.guard.locked;
        self.guard = Some(change.guard.clone());
        if change.guard.locked {
            self.wipes.push_back((change.id, change.epoch));
        }
        if change.seal_floor > self.floor {
            self.floor = change.seal_floor;
            self.confirms.push_back((change.id, change.seal_floor));
        }
    }
}

fn name_of(request: &KmsRequest) -> String {
    match request {
        KmsRequest::Check(_) => "check".to_owned(),
        KmsRequest::Unwrap { deks, .. } => {
            let deks: Vec<u32> = deks.iter().map(|dek| dek.generation).collect();
            format!("unwrap {deks:?}")
        }
        KmsRequest::NewDek { generation, .. } => format!("new dek {generation}"),
        KmsRequest::Move { .. } => "move".to_owned(),
        KmsRequest::Open { .. } => "open".to_owned(),
        KmsRequest::Initialise { .. } => "initialise".to_owned(),
    }
}

fn lease_word(event: LeaseEvent) -> String {
    match event {
        LeaseEvent::Granted { generation, .. } => format!("granted {generation}"),
        LeaseEvent::Unavailable { .. } => "unavailable".to_owned(),
        event => format!("{event:?}").to_lowercase(),
    }
}
