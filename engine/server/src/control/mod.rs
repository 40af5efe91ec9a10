//! The control thread: drives [`keyway_node::control::Control`], which decides. Here are its inputs and what it has done:
//! messages from and to the shards, calls of KMSes, the catalogue's file, the clock, the exporter and the log.
//!
//! ```text
//!  shards ──ToControl──▶ driver (tokio) ──▶ KMS services (kms_calls)
//!         ◀──ToShard────   │      ▲     ──▶ keyspaces.json (saver, catalogue_file)
//!                  handle_* ▼      │ poll_effect
//!                         Control
//! ```
//!
//! The thread itself waits for no disk and no KMS: each is asked by a task of its own, whose answer comes back as an input.

pub mod at_start;
pub mod catalogue_file;
mod catalogue_text;
mod key_versions;
pub mod kms;
mod kms_calls;
pub mod lanes;
pub mod link;
mod log;
pub mod opening;
mod outbox;
pub mod saver;
mod seal;
pub mod settings;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use keyway_core::Instant;
use keyway_kms::Service;
use keyway_node::control::hot_keys;
use keyway_node::control::{
    Control, ControlEffect, ControlFigures, KmsAnswer, KmsSet as KmsNames, KmsStatus,
};
use keyway_node::ids::{CallId, QuestionId, WriteId};
use keyway_node::messages::{Command, ToControl, ToShard};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::clock;
use crate::metrics::exporter;
use crate::metrics::page::ActiveViewers;
use crate::metrics::snapshot::{CatalogueSnapshot, KmsSnapshot, Snapshot};
use crate::plant::panic_if_planted;
use catalogue_file::CatalogueFile;
use kms::{Kms, KmsSet};
use lanes::{LaneEnds, Lanes};
use link::FromShard;
use outbox::Outbox;
use saver::{Save, SaveHotKeys};

use keyway_node::catalogue;

/// How often the KMSes' metrics are sent to the exporter, µs.
const SNAPSHOT_PERIOD_US: u64 = 1_000_000;

/// How long the end waits for the last write, µs: as long as a change waits for the disk.
const LAST_WRITE_US_MAX: u64 = 4_000_000;

const MS_PER_HOUR: f64 = 3_600_000.0;

/// Results of tasks. There are as many in flight as calls, writes and questions of control, which bounds them.
enum Done {
    Kms(CallId, KmsAnswer),
    /// A section that was changed without a seal can be sealed.
    SealDue,
    Saved(WriteId, Result<(), String>),
    HotKeysSaved,
    Status(QuestionId, Option<String>),
}

/// What the driver does things with.
pub struct Means<K = Service> {
    /// The KMSes.
    pub kms: Rc<KmsSet<K>>,
    /// The catalogue's file, if its seals are to be checked.
    pub file: Option<Arc<CatalogueFile>>,
    /// Writes the catalogue.
    pub save: Save,
    /// Writes the list of hot keys.
    pub save_hot_keys: SaveHotKeys,
    /// The ways to the shards.
    pub shards: Vec<Lanes<ToShard>>,
    /// To the exporter.
    pub exporter: mpsc::Sender<exporter::Message>,
    /// Who looks at the live page.
    pub viewers: Arc<ActiveViewers>,
    /// What the shards' cores were given, for the forecast.
    pub renew_early_ppm: u32,
}

/// Runs the state machine.
pub struct Driver<K = Service> {
    control: Control,
    means: Means<K>,
    outboxes: Vec<Outbox>,
    done: mpsc::UnboundedSender<Done>,
    finished: mpsc::UnboundedReceiver<Done>,
    key_versions: key_versions::Counted,
    snapshot_at: Instant,
}

impl<K: Kms + 'static> Driver<K> {
    /// Over the state machine, which the shards have been started with.
    pub fn new(control: Control, means: Means<K>) -> Self {
        let (done, finished) = mpsc::unbounded_channel();
        Driver {
            control,
            outboxes: means.shards.iter().cloned().map(Outbox::new).collect(),
            means,
            done,
            finished,
            key_versions: key_versions::Counted::default(),
            snapshot_at: Instant::ZERO,
        }
    }

    /// Serves until every shard has said in `stopped` that it has. `sleep` waits until a time. To be run in a `LocalSet`.
    pub async fn run(
        mut self,
        mut requests: LaneEnds<FromShard>,
        mut stopped: mpsc::Receiver<u16>,
        mut sleep: impl AsyncFnMut(Instant),
    ) {
        self.tell_kms_states();
        self.control.handle_start(clock::moment());
        self.carry_out();
        let mut running = self.means.shards.len();
        while running > 0 {
            let until = self.control.poll_timeout();
            // In this order, so that no flood of requests keeps the process from stopping.
            tokio::select! {
                biased;
                shard = stopped.recv() => match shard {
                    Some(shard) => {
                        running -= 1;
                        self.take_hottest(&mut requests);
                        self.control.handle_shard_stopped(clock::moment(), shard);
                    }
                    None => break,
                },
                Some(done) = self.finished.recv() => self.take(done),
                () = sleep(until) => self.tick(),
                // Once no shard can ask any more, they are still to be counted.
                Some(FromShard { shard, message }) = requests.recv() => {
                    if let ToControl::Request(request) = &message {
                        if let Command::Create { name, .. } = &request.command {
                            panic_if_planted("control", name.as_bytes());
                        }
                        self.tell_kms_states();
                    }
                    self.control.handle_shard(clock::moment(), shard, message);
                }
            }
            self.carry_out();
        }
        self.take_hottest(&mut requests);
        self.write_hot_keys().await;
        self.save_at_end(sleep).await;
    }

    /// Each shard names its hottest keys before it says that it has stopped.
    fn take_hottest(&mut self, requests: &mut LaneEnds<FromShard>) {
        while let Some(FromShard { shard, message }) = requests.try_recv() {
            self.control.handle_shard(clock::moment(), shard, message);
        }
    }

    fn take(&mut self, done: Done) {
        let now = clock::moment();
        match done {
            Done::Kms(call, answer) => {
                self.tell_kms_states();
                self.control.handle_kms(now, call, answer);
            }
            Done::SealDue => self.control.handle_seal_due(),
            Done::Saved(write, result) => self.control.handle_saved(now, write, result),
            Done::HotKeysSaved => self.control.handle_hot_keys_saved(),
            Done::Status(question, page) => self.control.handle_status(now, question, page),
        }
    }

    fn tick(&mut self) {
        let now = clock::moment();
        self.tell_kms_states();
        self.control.handle_tick(now);
        if now.instant < self.snapshot_at {
            return;
        }
        self.snapshot_at = now.instant.plus_us(SNAPSHOT_PERIOD_US);
        self.push_kms_figures();
        if self.means.viewers.end_second() {
            self.control.handle_page_viewed(now);
        }
    }

    fn tell_kms_states(&mut self) {
        let file = self.means.file.as_deref();
        for (name, status) in kms_states(&self.means.kms, file) {
            self.control.handle_kms_status(name, status);
        }
    }

    /// Does what the state machine wants done.
    fn carry_out(&mut self) {
        while let Some(effect) = self.control.poll_effect() {
            match effect {
                ControlEffect::Tell {
                    shard,
                    lane,
                    message,
                } => {
                    if let Some(outbox) = self.outboxes.get(usize::from(shard)) {
                        outbox.send(lane, message);
                    }
                }
                ControlEffect::Kms { call, kms, request } => {
                    let promise = kms_calls::Promise::new(call, &request, self.done.clone());
                    let (set, file) = (Rc::clone(&self.means.kms), self.means.file.clone());
                    spawn_local(kms_calls::call(set, file, kms, request, promise));
                }
                ControlEffect::LockKms { kms } => {
                    if let Ok(kms) = self.means.kms.get(&kms) {
                        kms.lock();
                    }
                }
                ControlEffect::Hurry { kms } => {
                    if let Ok(kms) = self.means.kms.get(&kms) {
                        kms.hurry();
                    }
                }
                ControlEffect::Save { write, catalogue } => {
                    let saved = (self.means.save)(catalogue);
                    let done = self.done.clone();
                    spawn_local(async move {
                        let result = saver::ended(saved.await);
                        let _ = done.send(Done::Saved(write, result));
                    });
                }
                ControlEffect::SaveHotKeys { text } => self.save_hot_keys(text),
                ControlEffect::Status { question, after } => {
                    let (exporter, done) = (self.means.exporter.clone(), self.done.clone());
                    spawn_local(async move {
                        let page = exporter::status_page(&exporter, after).await;
                        let _ = done.send(Done::Status(question, page));
                    });
                }
                ControlEffect::Figures(figures) => self.push(figures),
                ControlEffect::Report(report) => log::write(report),
            }
        }
    }

    fn save_hot_keys(&self, text: String) {
        let (save, done) = (Arc::clone(&self.means.save_hot_keys), self.done.clone());
        let written = tokio::task::spawn_blocking(move || saver::write_hot_keys(&save, &text));
        spawn_local(async move {
            // A panic there has been logged; the next list is another try.
            let _ = written.await;
            let _ = done.send(Done::HotKeysSaved);
        });
    }

    /// The last list, at the end. One that is being written comes first.
    async fn write_hot_keys(&mut self) {
        while self.control.is_writing_hot_keys() {
            match self.finished.recv().await {
                Some(done) => self.take(done),
                None => break,
            }
        }
        if let Some(text) = self.control.take_hot_keys() {
            saver::write_hot_keys(&self.means.save_hot_keys, &text);
        }
    }

    /// At the end: one more try for what is not written.
    async fn save_at_end(&mut self, mut sleep: impl AsyncFnMut(Instant)) {
        let end = clock::now().plus_us(LAST_WRITE_US_MAX);
        self.control.handle_stop(clock::moment());
        self.carry_out();
        while self.control.is_writing() {
            tokio::select! {
                Some(done) = self.finished.recv() => self.take(done),
                () = sleep(end) => break,
            }
            self.carry_out();
        }
        log::left_unwritten(self.control.unwritten());
    }

    fn push(&self, figures: ControlFigures) {
        let snapshot = match figures {
            ControlFigures::Catalogue(figures) => Snapshot::Catalogue(CatalogueSnapshot {
                unwritten_changes: figures.unwritten_changes,
                write_failures_total: figures.write_failures_total,
            }),
            ControlFigures::Settings(settings) => Snapshot::Settings(settings),
            ControlFigures::Hot(hot) => Snapshot::Hot(hot),
        };
        exporter::offer(&self.means.exporter, snapshot);
    }

    /// Has seals that are behind made under the newest versions of the KMSes' keys: no command does it.
    fn renew_seals(&self) {
        let Some(file) = &self.means.file else {
            return;
        };
        for (name, kms) in self.means.kms.iter() {
            if file.is_seal_behind(name, kms) {
                let (set, file) = (Rc::clone(&self.means.kms), Arc::clone(file));
                let done = self.done.clone();
                spawn_local(kms_calls::renew_seal(set, file, name.to_owned(), done));
            }
        }
    }

    fn push_kms_figures(&mut self) {
        let catalogue = self.control.written();
        if self.key_versions.count_if_due(catalogue, &self.means.kms) {
            self.renew_seals();
        }
        let mut figures: Vec<_> = self
            .means
            .kms
            .iter()
            .map(|(name, kms)| KmsSnapshot {
                trouble: self.control.trouble_of(name, clock::now()),
                key_versions: self.key_versions.of(name),
                ..kms.figures(name)
            })
            .collect();
        let renewals_per_lease = keyway_core::renewals_per_lease(self.means.renew_early_ppm);
        for (id, keyspace) in catalogue.iter() {
            let of_its_kms = figures.iter_mut().find(|kms| kms.name == keyspace.kms);
            if let Some(kms) = of_its_kms {
                let calls = renewals_per_lease * keyspace.dek_count() as f64;
                let per_hour = calls * MS_PER_HOUR / keyspace.settings().dek_lease_ms as f64;
                kms.lease_calls_per_hour.insert(id, per_hour);
            }
        }
        exporter::offer(&self.means.exporter, Snapshot::Kms(figures));
    }
}

/// The KMSes as control knows them.
pub fn names_of<K: Kms>(kms: &KmsSet<K>, file: Option<&CatalogueFile>) -> KmsNames {
    let status = kms_states(kms, file);
    KmsNames {
        status: status
            .map(|(name, status)| (name.to_owned(), status))
            .collect::<BTreeMap<_, _>>(),
        default: kms.default_name().to_owned(),
        without_secret: kms.without_secret().clone(),
    }
}

fn kms_states<'a, K: Kms>(
    kms: &'a KmsSet<K>,
    file: Option<&'a CatalogueFile>,
) -> impl Iterator<Item = (&'a str, KmsStatus)> {
    kms.iter().map(move |(name, kms)| {
        let status = KmsStatus {
            is_open: kms.state() == keyway_kms::ProviderState::Unlocked,
            need: kms::need(kms.unlock_need()),
            is_checked: file.is_none_or(|file| file.is_checked(name)),
        };
        (name, status)
    })
}

/// The file of hot keys.
pub const HOT_KEYS_FILE: &str = hot_keys::FILE;
