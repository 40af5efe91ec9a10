//! Control and its surroundings: two shards, two KMSes, and a disk.

use std::collections::VecDeque;

use keyway_core::Instant;
use keyway_node::catalogue::{Catalogue, WrappedDek};
use keyway_node::control::{
    COMMANDS_MAX, Control, ControlEffect, Deks, KmsAnswer, KmsRequest, KmsStatus, Need, NewDek,
    Unlocked,
};
use keyway_node::ids::{CallId, Epoch, QuestionId, Revision, WriteId};
use keyway_node::messages::{DekCopies, HotKey, Request, ToControl, ToShard};
use keyway_node::policy::Principal;
use keyway_node::time::Moment;

use super::commands;
use super::ledger::Ledger;
use super::made::{at, catalogue, control, copy, failure, page, progress};
use crate::script::Script;

pub(super) const KMSES: [&str; 2] = ["first", "second"];
pub(super) const SHARDS: u16 = 2;
const PRINCIPALS: [Principal; 3] = [Principal::Uid(500), Principal::Uid(7), Principal::Anonymous];
/// Time that a step may let pass, µs.
const PAUSES_US: [u64; 8] = [
    0,
    10,
    1_000,
    200_000,
    1_000_000,
    5_000_000,
    61_000_000,
    700_000_000,
];
/// Longer than any command is waited for, µs.
const LONGEST_US: u64 = 700_000_000;

/// A question that a shard was asked.
enum Question {
    Page(QuestionId, u32),
    Progress(QuestionId),
    Hot(QuestionId),
}

/// Control and what surrounds it.
pub(super) struct Desk {
    control: Control,
    now_us: u64,
    ledger: Ledger,
    calls: VecDeque<(CallId, KmsRequest)>,
    questions: VecDeque<(u16, Question)>,
    pages: VecDeque<QuestionId>,
    /// Acknowledgements that are due.
    acks: VecDeque<(u16, ToControl)>,
    write: Option<(WriteId, Catalogue)>,
    durable: Catalogue,
    stopped: [bool; SHARDS as usize],
    /// Numbers commands, and the DEKs that are made.
    last_number: u64,
    /// Something was answered with what it did not ask for: who asked may wait until the command's time is over.
    has_lied: bool,
}

impl Desk {
    pub(super) fn new(kind: u8) -> Self {
        let durable = catalogue(kind);
        let mut desk = Self {
            control: control(at(1_000_000), durable.clone()),
            now_us: 1_000_000,
            ledger: Ledger::default(),
            calls: VecDeque::new(),
            questions: VecDeque::new(),
            pages: VecDeque::new(),
            acks: VecDeque::new(),
            write: None,
            durable,
            stopped: [false; SHARDS as usize],
            last_number: 0,
            has_lied: false,
        };
        desk.boot();
        desk
    }

    fn now(&self) -> Moment {
        at(self.now_us)
    }

    /// A process starts with what is written.
    fn boot(&mut self) {
        let parsed = Catalogue::parse(&self.durable.text());
        let mut catalogue = parsed.expect("what is written can be read");
        catalogue.resume(self.now());
        self.control = control(self.now(), catalogue);
        self.ledger = Ledger::default();
        self.stopped = [false; SHARDS as usize];
        let changes = self.control.keyspaces_at_start();
        for change in changes {
            for shard in 0..SHARDS {
                self.ledger.begins(shard, &change);
            }
        }
        self.control.handle_start(self.now());
        self.drain();
    }

    fn crash(&mut self, is_written: bool) {
        if let (Some((_, catalogue)), true) = (self.write.take(), is_written) {
            self.durable = catalogue;
        }
        self.calls.clear();
        self.questions.clear();
        self.pages.clear();
        self.acks.clear();
        self.boot();
    }

    /// One step of the script.
    pub(super) fn step(&mut self, script: &mut Script<'_>) {
        let step = script.u8();
        let how = step >> 4;
        match step % 16 {
            0..3 => self.command(script, how),
            3 | 4 => self.answer_kms(script.u8(), how),
            5 => self.end_write(how),
            6 | 7 => self.acknowledge(how),
            8 | 9 => self.answer_question(script.u8(), how),
            10 => self.say(script, how),
            11 => {
                self.now_us += PAUSES_US[usize::from(how) % PAUSES_US.len()];
                self.control.handle_tick(self.now());
            }
            12 => self.set_kms(script.u8(), how),
            13 => self.beside(how),
            14 => self.answer_unknown(script, how),
            _ if how < 3 => self.crash(how == 0),
            _ => {
                // The smallest step to where control wants to be called.
                self.now_us = self.control.poll_timeout().as_micros().max(self.now_us);
                self.control.handle_tick(self.now());
            }
        }
        self.drain();
    }

    /// Everything works: whatever was asked is answered.
    pub(super) fn calm(&mut self) {
        self.set_kms(1, 0);
        for _ in 0..200 {
            let mut is_any = false;
            while !self.calls.is_empty() {
                self.answer_kms(0, 0);
                self.drain();
                is_any = true;
            }
            is_any |= self.write.is_some();
            self.end_write(0);
            self.drain();
            while !self.acks.is_empty() {
                self.acknowledge(0);
                self.drain();
                is_any = true;
            }
            while !self.questions.is_empty() {
                self.answer_question(0, 0);
                self.drain();
                is_any = true;
            }
            while let Some(question) = self.pages.pop_front() {
                let page = Some("{}".to_owned());
                self.control.handle_status(self.now(), question, page);
                self.drain();
            }
            if !is_any && self.is_at_rest() {
                break;
            }
            self.now_us += 1_000_000;
            self.control.handle_tick(self.now());
            self.drain();
        }
        if self.has_lied {
            self.now_us += LONGEST_US;
            self.control.handle_tick(self.now());
            self.drain();
        } else if !self.stopped.contains(&true) {
            let (commands, works) = self.control.under_way();
            assert!(
                self.is_at_rest(),
                "at rest {commands} commands and {works} works are in progress"
            );
        }
        let waiting = self.ledger.waiting();
        assert!(waiting.is_empty(), "commands {waiting:?} are not answered");
        self.control.handle_stop(self.now());
        self.drain();
    }

    fn is_at_rest(&self) -> bool {
        self.control.under_way() == (0, 0)
    }

    fn command(&mut self, script: &mut Script<'_>, how: u8) {
        let shard = u16::from(how & 1);
        if self.stopped[usize::from(shard)] {
            return;
        }
        self.last_number += 1;
        let token = self.last_number;
        let who = match how >> 1 {
            6 => PRINCIPALS[1],
            7 => PRINCIPALS[2],
            _ => PRINCIPALS[0],
        };
        let deadline = (how >> 1 == 5).then(|| Instant::from_micros(self.now_us + 100_000));
        let command = commands::command(script);
        self.ledger.asks(shard, token);
        let request = Request {
            token,
            who,
            deadline,
            command,
        };
        let message = ToControl::Request(request);
        self.control.handle_shard(self.now(), shard, message);
    }

    /// A call ends: well, if `how` is 0.
    fn answer_kms(&mut self, how: u8, which: u8) {
        let count = self.calls.len();
        if count == 0 {
            return;
        }
        let Some((call, request)) = self.calls.remove(usize::from(which) % count) else {
            return;
        };
        let answer = match how % 16 {
            0..9 => self.well(request, how),
            9..14 => request.failed(failure(how)),
            14 => {
                self.has_lied = true;
                KmsAnswer::Opened(Ok(Unlocked::Open))
            }
            _ => {
                // Twice: the second one is an answer to no call.
                let answer = self.well(request, how);
                self.control.handle_kms(self.now(), call, answer);
                KmsAnswer::Checked(Ok(()))
            }
        };
        self.control.handle_kms(self.now(), call, answer);
    }

    fn well(&mut self, request: KmsRequest, how: u8) -> KmsAnswer {
        let sent_at = self.now().instant;
        let each = |deks: &[WrappedDek]| deks.iter().map(|dek| copy(dek.generation)).collect();
        match request {
            KmsRequest::Check(_) => KmsAnswer::Checked(Ok(())),
            KmsRequest::Unwrap { deks, .. } => {
                let deks: DekCopies = each(&deks);
                KmsAnswer::Unwrapped(Ok(Deks { sent_at, deks }))
            }
            KmsRequest::NewDek { generation, .. } => {
                self.last_number += 1;
                KmsAnswer::Made(Ok(NewDek {
                    sent_at,
                    record: format!("made {}", self.last_number).into_bytes(),
                    dek: copy(generation),
                }))
            }
            KmsRequest::Move {
                in_use, retired, ..
            } => {
                let deks = each(&in_use);
                let records = in_use.into_iter().chain(retired).collect();
                KmsAnswer::Moved(Ok((Deks { sent_at, deks }, records)))
            }
            KmsRequest::Open { .. } => KmsAnswer::Opened(Ok(match how % 3 {
                1 => Unlocked::MoreShares {
                    given: 1,
                    threshold: 3,
                },
                _ => Unlocked::Open,
            })),
            KmsRequest::Initialise { shares, .. } => {
                let count = usize::from(shares);
                KmsAnswer::Initialised(Ok((vec![1; count].into(), count)))
            }
        }
    }

    fn end_write(&mut self, how: u8) {
        let Some((write, catalogue)) = self.write.take() else {
            return;
        };
        let result = match how % 4 {
            3 => Err("no space".to_owned()),
            // Replaced, although it says that it is not.
            2 => {
                self.durable = catalogue;
                Err("the disk is slow".to_owned())
            }
            _ => {
                self.durable = catalogue;
                Ok(())
            }
        };
        self.control.handle_saved(self.now(), write, result);
    }

    fn acknowledge(&mut self, which: u8) {
        let count = self.acks.len();
        if count == 0 {
            return;
        }
        // Not in their order, unless all are.
        if let Some((shard, message)) = self.acks.remove(usize::from(which) % count)
            && !self.stopped[usize::from(shard)]
        {
            self.control.handle_shard(self.now(), shard, message);
        }
    }

    fn answer_question(&mut self, how: u8, which: u8) {
        let count = self.questions.len();
        if count == 0 {
            return;
        }
        let Some((shard, question)) = self.questions.remove(usize::from(which) % count) else {
            return;
        };
        if self.stopped[usize::from(shard)] {
            return;
        }
        let message = match question {
            Question::Page(question, floor) => ToControl::Resealed {
                question,
                page: page(how, floor),
            },
            Question::Progress(question) => ToControl::Progress {
                question,
                progress: progress(how),
            },
            Question::Hot(question) => ToControl::Hot {
                question,
                share: None,
            },
        };
        self.control.handle_shard(self.now(), shard, message);
    }

    /// What a shard says of itself, true or not.
    fn say(&mut self, script: &mut Script<'_>, how: u8) {
        let what = script.u8();
        let (shard, keyspace) = (u16::from(what & 1), u32::from(what >> 1 & 3) + 1);
        let number = u64::from(what >> 3);
        let message = match how {
            0..6 => ToControl::Unwrap { keyspace },
            6 | 7 => ToControl::Revive {
                keyspace,
                generation: number as u32,
            },
            8 => ToControl::Hottest {
                keys: vec![HotKey {
                    keyspace,
                    key_id: [what; 8].into(),
                }],
            },
            9 | 10 => {
                let revision = Revision(number);
                ToControl::Acted { keyspace, revision }
            }
            11 => ToControl::Wiped {
                keyspace,
                epoch: Epoch(number),
            },
            12 => ToControl::Confirmed {
                keyspace,
                generation: number as u32,
            },
            13 => ToControl::Resealed {
                question: QuestionId(number),
                page: page(what, 1),
            },
            14 => ToControl::Progress {
                question: QuestionId(number),
                progress: progress(what),
            },
            _ => ToControl::Hot {
                question: QuestionId(number),
                share: None,
            },
        };
        if !self.stopped[usize::from(shard)] {
            // An answer to a question that was asked is a lie: it will be answered again.
            self.has_lied |= how >= 9;
            self.control.handle_shard(self.now(), shard, message);
        }
    }

    fn set_kms(&mut self, what: u8, how: u8) {
        let status = KmsStatus {
            is_open: what & 1 != 0,
            need: match what >> 1 & 7 {
                0 => Need::Nothing,
                1 => Need::Pin,
                2 => Need::Shares { given: what >> 4 },
                3 => Need::Initialise,
                _ => Need::Passphrase,
            },
            is_checked: what & 0x80 == 0,
        };
        let named: &[&str] = match how {
            0 => &KMSES,
            _ if how & 1 == 0 => &KMSES[..1],
            _ => &["nobody's"],
        };
        for kms in named {
            self.control.handle_kms_status(kms, status);
        }
    }

    fn beside(&mut self, how: u8) {
        let now = self.now();
        match how {
            0..4 => self.control.handle_hot_keys_saved(),
            4..8 => self.control.handle_page_viewed(now),
            8..10 => self.control.handle_seal_due(),
            10..14 => {
                if let Some(question) = self.pages.pop_front() {
                    let page = (how & 1 == 0).then(|| "{}".to_owned());
                    self.control.handle_status(now, question, page);
                }
            }
            // One shard goes on, so that one is left to ask.
            _ => {
                self.stopped[1] = true;
                self.control.handle_shard_stopped(now, 1);
            }
        }
    }

    /// Answers to what was never asked.
    fn answer_unknown(&mut self, script: &mut Script<'_>, how: u8) {
        let number = u64::from(script.u16()) + 1_000_000;
        let now = self.now();
        match how % 3 {
            0 => {
                self.control
                    .handle_kms(now, CallId(number), KmsAnswer::Opened(Ok(Unlocked::Open)))
            }
            1 => self.control.handle_saved(now, WriteId(number), Ok(())),
            _ => self
                .control
                .handle_status(now, QuestionId(number), Some("{}".to_owned())),
        }
    }

    fn drain(&mut self) {
        while let Some(effect) = self.control.poll_effect() {
            match effect {
                ControlEffect::Tell { shard, message, .. } => self.hears(shard, message),
                ControlEffect::Kms { call, request, .. } => self.calls.push_back((call, request)),
                ControlEffect::Save { write, catalogue } => {
                    assert!(self.write.is_none(), "two writes at a time");
                    self.write = Some((write, catalogue));
                }
                ControlEffect::Status { question, .. } => self.pages.push_back(question),
                ControlEffect::LockKms { .. }
                | ControlEffect::Hurry { .. }
                | ControlEffect::SaveHotKeys { .. }
                | ControlEffect::Figures(_)
                | ControlEffect::Report(_) => {}
            }
        }
        let (commands, works) = self.control.under_way();
        assert!(commands <= 2 * COMMANDS_MAX);
        assert!(works <= 2 * COMMANDS_MAX, "{works} works are in progress");
        assert_eq!(
            commands,
            self.ledger.waiting().len(),
            "commands in progress"
        );
    }

    fn hears(&mut self, shard: u16, message: ToShard) {
        assert!(shard < SHARDS, "there is no shard {shard}");
        // A temporary override expires without a write, also when it is read back from the disk.
        let mut durable = self.durable.clone();
        durable.revert_expired(self.now());
        self.ledger.hears(shard, &message, &durable);
        let question = match message {
            ToShard::Keyspace(change) => {
                let (keyspace, revision) = (change.id, change.revision);
                self.acks
                    .push_back((shard, ToControl::Acted { keyspace, revision }));
                if change.guard.locked {
                    let epoch = change.epoch;
                    self.acks
                        .push_back((shard, ToControl::Wiped { keyspace, epoch }));
                }
                let generation = change.seal_floor;
                let confirmed = ToControl::Confirmed {
                    keyspace,
                    generation,
                };
                return self.acks.push_back((shard, confirmed));
            }
            ToShard::Reseal {
                question, keyspace, ..
            } => {
                let told = self.ledger.told(shard, keyspace);
                Question::Page(question, told.map_or(0, |told| told.seal_floor))
            }
            ToShard::Progress { question, .. } => Question::Progress(question),
            ToShard::Hot { question, .. } => Question::Hot(question),
            ToShard::Lease { .. } | ToShard::Answer { .. } => return,
        };
        self.questions.push_back((shard, question));
    }
}
