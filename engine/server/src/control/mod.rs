//! The control thread: the only one that calls a KMS, and the owner of the keyspaces.
//!
//! ```text
//!  shards ──ControlRequest──▶ control thread (tokio) ──▶ KMS
//!         ◀──ControlEvent───   keyspaces.json
//! ```
//!
//! In force = written ∧ wanted: what takes something away is acted on by every shard first and then written, what gives
//! something is written first. Both are acknowledged once they are in force and written; what could not be written is
//! answered with a status of its own. The control thread itself waits for no disk and no KMS.

pub mod at_start;
mod caller;
pub mod catalogue_file;
mod catalogue_text;
mod hot;
pub mod hot_keys;
mod in_force;
mod key_versions;
pub mod kms;
pub mod lanes;
mod lease;
mod list;
mod lock;
mod lock_kms;
pub mod messages;
pub mod opening;
pub mod page;
mod publish;
mod retired;
mod rotation;
pub mod saver;
mod seal;
pub mod settings;
mod task;
mod troubles;
mod trust;
mod unlock;
mod unlock_status;

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use keyway_kms::{Initialise, KmsError, Passphrase, Service, Share};
use keyway_protocol::{KmsShares, Status, encode_keyspace_id};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::authorise::{Owner, Principal};
use crate::clock;
use crate::metrics::exporter;
use crate::metrics::snapshot::{KmsSnapshot, Snapshot};
use caller::Caller;
use catalogue::{Catalogue, CatalogueError, FIRST_GENERATION, Keyspace, NewKeyspace};
use catalogue_file::{CatalogueFile, FirstSeal};
use hot_keys::HotKeys;
use in_force::InForce;
pub use keyway_node::catalogue;
pub use keyway_node::control::tickets;
use kms::{Kms, KmsSet, refusal};
use lanes::{Lane, LaneEnds, Lanes};
use lease::Deks;
use messages::{Command, ControlEvent, ControlRequest, KeyspaceConfig, ReplyTo};
use publish::Publications;
use rotation::Progress;
use saver::{Save, acknowledge};
use tickets::Tickets;
use troubles::Troubles;
use unlock::Given;

/// How often the KMS's figures go to the exporter.
pub const SNAPSHOT_PERIOD: Duration = Duration::from_secs(1);

const MS_PER_HOUR: f64 = 3_600_000.0;

/// Name of the line in a new keyspace's settings that says which KMS wraps its DEKs.
const KMS_LINE: &str = "kms=";

/// What the control thread owns.
pub struct Control<K = Service> {
    owner: Owner,
    kms: KmsSet<K>,
    in_force: RefCell<InForce>,
    published: RefCell<Publications>,
    save: Save,
    /// A write has ended.
    saved: Notify,
    hot_keys: HotKeys,
    shards: Vec<Lanes<ControlEvent>>,
    exporter: mpsc::Sender<exporter::Message>,
    /// Of a lease in use, while it lasts.
    renewals_per_lease: f64,
    tickets: RefCell<Tickets>,
    /// What is wrong at the KMSes.
    troubles: RefCell<Troubles>,
    key_versions: RefCell<key_versions::Counted>,
    /// Locks of each keyspace so far, so that an unlock knows whether one came between.
    locks: RefCell<HashMap<u32, u64>>,
    /// Locks that shards are carrying out, or have carried out last: whether nothing of the keyspace is left.
    wiping: RefCell<HashMap<u32, watch::Receiver<bool>>>,
    /// Keyspaces of which the KMS is being asked for the DEKs, for the shards.
    asking: RefCell<HashSet<u32>>,
    /// Keyspaces of which blobs are being sealed under a new DEK.
    resealing: RefCell<HashMap<u32, Progress>>,
    /// Keyspaces of which the DEKs are being rotated, moved or destroyed.
    changing_deks: RefCell<HashSet<u32>>,
    /// DEKs that blobs are sealed under and nobody has.
    missing_deks: RefCell<HashSet<(u32, u32)>>,
    /// The catalogue's file, if its seals are to be checked.
    file: Option<Arc<CatalogueFile>>,
    /// What has been changed without a seal can be sealed now.
    seal_due: Cell<bool>,
    /// When retired DEKs were last destroyed of which the time was over.
    deks_looked_at: Cell<Option<keyway_core::Instant>>,
    page: page::Feed,
}

/// An answer on its way: a status, and the payload or an explanation.
type Answer = Result<Vec<u8>, (Status, String)>;

impl<K: Kms + 'static> Control<K> {
    /// Over the KMSes, the keyspaces and the ways to the shards. `renew_early_ppm`: what the shards'
    /// cores were given, for the forecast.
    pub fn new(
        kms: KmsSet<K>,
        catalogue: Catalogue,
        save: Save,
        hot_keys: HotKeys,
        shards: Vec<Lanes<ControlEvent>>,
        exporter: mpsc::Sender<exporter::Message>,
        renew_early_ppm: u32,
    ) -> Self {
        Control {
            owner: Owner { dev: false, uid: 0 },
            kms,
            in_force: RefCell::new(InForce::new(catalogue)),
            published: RefCell::default(),
            save,
            saved: Notify::new(),
            hot_keys,
            shards,
            exporter,
            renewals_per_lease: keyway_core::renewals_per_lease(renew_early_ppm),
            tickets: RefCell::new(Tickets::new(0)),
            troubles: RefCell::default(),
            key_versions: RefCell::default(),
            locks: RefCell::default(),
            wiping: RefCell::default(),
            asking: RefCell::default(),
            resealing: RefCell::default(),
            changing_deks: RefCell::default(),
            missing_deks: RefCell::default(),
            file: None,
            seal_due: Cell::new(false),
            deks_looked_at: Cell::new(None),
            page: page::Feed::default(),
        }
    }

    /// Tells the live page what only this thread knows.
    #[must_use]
    pub fn with_page(self, page: page::Feed) -> Self {
        Control { page, ..self }
    }

    /// Has these rights hold everywhere, in place of root's alone.
    #[must_use]
    pub fn with_owner(self, owner: Owner) -> Self {
        Control { owner, ..self }
    }

    /// Goes on with the tickets that shards were given at the start.
    #[must_use]
    pub fn with_tickets(self, tickets: Tickets) -> Self {
        Control {
            tickets: RefCell::new(tickets),
            ..self
        }
    }

    /// Serves requests until every shard has said in `stopped` that it has. Each time that
    /// `second` ends, the KMS's figures go to the exporter. To be run in a `LocalSet`.
    pub async fn run(
        self,
        mut requests: LaneEnds<ControlRequest>,
        mut stopped: mpsc::Receiver<u16>,
        mut second: impl AsyncFnMut(),
    ) {
        let control = Rc::new(self);
        control.resume_resealing();
        control.ask_for_hot_keyspaces();
        let mut running = control.shards.len();
        while running > 0 {
            // In this order, so that no flood of requests keeps the process from stopping.
            tokio::select! {
                biased;
                shard = stopped.recv() => match shard {
                    Some(_) => running -= 1,
                    None => break,
                },
                () = second() => {
                    control.push_snapshot();
                    control.feed_page();
                    control.end_limited();
                    control.look_at_saves();
                    control.look_at_all_opened();
                    control.destroy_due_deks();
                    control.seal_anew();
                    control.hot_keys.write_aside();
                }
                // Once nobody can ask any more, the shards are still to be counted.
                Some(request) = requests.recv() => match request {
                    ControlRequest::Unwrap { keyspace } => {
                        tokio::task::spawn_local(Rc::clone(&control).lease(keyspace));
                    }
                    ControlRequest::Revive { keyspace, generation } => {
                        tokio::task::spawn_local(Rc::clone(&control).revive(keyspace, generation));
                    }
                    ControlRequest::Hottest { shard, keys } => control.hot_keys.take(shard, keys),
                    // The shard has answered DEADLINE_EXCEEDED, or is about to.
                    ControlRequest::Admin { deadline: Some(deadline), .. }
                        if clock::now() >= deadline => {}
                    ControlRequest::Admin { reply_to, who, deadline, command } => {
                        let lane = command.lane();
                        let caller = Caller::of(&command, who, deadline);
                        let answered = Rc::clone(&control).administer(reply_to, who, command);
                        let answered = caller.scope(answered);
                        match lane {
                            Lane::Emergency => task::begin(answered),
                            Lane::Ordinary => drop(tokio::task::spawn_local(answered)),
                        }
                    }
                },
            }
        }
        // Each shard named its hottest keys before it said that it had stopped.
        while let Some(request) = requests.try_recv() {
            if let ControlRequest::Hottest { shard, keys } = request {
                control.hot_keys.take(shard, keys);
            }
        }
        control.hot_keys.write().await;
        control.save_at_end(second).await;
    }

    /// A warm start: keyspaces that had hot keys will be used, so their DEKs are fetched before anybody asks, within
    /// the budget of their KMS.
    fn ask_for_hot_keyspaces(self: &Rc<Self>) {
        for keyspace in self.hot_keys.keyspaces() {
            tokio::task::spawn_local(Rc::clone(self).lease(keyspace));
        }
    }

    async fn administer(self: Rc<Self>, reply_to: ReplyTo, who: Principal, command: Command) {
        let lane = command.lane();
        let answer = match self.check_caller() {
            Ok(()) => self.carry_out(who, command).await,
            Err(refused) => Err(refused),
        };
        let (status, payload) = match answer {
            Ok(payload) => (Status::Ok, payload),
            Err((status, explanation)) => (status, explanation.into_bytes()),
        };
        let event = ControlEvent::Answer {
            token: reply_to.token,
            status,
            payload: Zeroizing::new(payload),
        };
        self.send(reply_to.shard, lane, event).await;
    }

    async fn carry_out(self: &Rc<Self>, who: Principal, command: Command) -> Answer {
        match command {
            Command::Create { name, lines } => self.create(&name, &lines, who).await,
            Command::Set { keyspace, lines } => self.set(keyspace, &lines, who).await,
            Command::List { after, visible } => Ok(self.list(after, &visible, who)),
            Command::History { keyspace } => self.history(keyspace),
            Command::Lock { keyspace } => self.lock(vec![keyspace], who).await,
            Command::Unlock {
                keyspace,
                kind,
                secret,
                watch,
                force,
            } => {
                let given = Given {
                    kind,
                    bytes: secret,
                    force,
                };
                self.start_unlock(keyspace, given, watch, who)
            }
            Command::UnlockStatus { keyspace, ticket } => {
                self.unlock_status(keyspace, ticket).await
            }
            Command::Rotate { keyspace } => self.rotate(keyspace, who).await,
            Command::DestroyDeks { keyspace } => self.destroy_deks(keyspace, who).await,
            Command::Rewrap { keyspace, kms } => self.rewrap(keyspace, &kms, who).await,
            Command::Hot {
                keyspace,
                by,
                keys_max,
            } => self.hot(keyspace, by, keys_max).await,
            Command::Initialise {
                kms,
                shares,
                threshold,
                passphrase,
            } => self.initialise(&kms, shares, threshold, passphrase).await,
            Command::UnlockKms {
                kms,
                kind,
                secret,
                force,
            } => {
                let given = Given {
                    kind,
                    bytes: secret,
                    force,
                };
                self.unlock_kms(&kms, given).await
            }
            Command::LockKms { kms } => self.lock_kms(&kms, who).await,
            Command::LockAll => self.lock_all(who).await,
            Command::Status { after } => self.status(after).await,
        }
    }

    async fn create(self: &Rc<Self>, name: &str, lines: &str, who: Principal) -> Answer {
        self.in_force.borrow().wanted().check_new(name)?;
        let (kms_name, lines) = settings::take_line(lines, KMS_LINE);
        let kms_name = kms_name.unwrap_or(self.kms.default_name()).to_owned();
        let change = settings::parse(&lines)?.without_end()?;
        let kms = self.kms.get(&kms_name).map_err(|error| refusal(&error))?;
        let checked = self.check_section(&kms_name, FirstSeal::Needed).await;
        checked.map_err(|error| refusal(&error))?;
        // Reserved only now, so that a creation that a closed KMS refuses uses up no id.
        let id = self.in_force.borrow_mut().reserve_id().ok_or((
            Status::Conflict,
            "the node has used up its keyspace ids".to_owned(),
        ))?;
        let made = kms.new_dek(id, FIRST_GENERATION).await;
        let dek = made.map_err(|error| refusal(&error))?;
        let (by, record) = (settings::by(who), dek.record.clone());
        let (named, at_kms) = (name.to_owned(), kms_name.clone());
        let settled = self
            .edit(&[id], move |catalogue| {
                let new = NewKeyspace {
                    name: &named,
                    change: &change,
                    kms: &at_kms,
                    record: &record,
                };
                catalogue.create_as(id, new, &by)
            })
            .await?;
        // It was proven by an unwrap: the first use need not wait for another.
        let deks = Deks::of_new([(FIRST_GENERATION, dek)]);
        self.tell_lease(id, &Ok(deks)).await;
        tracing::info!(keyspace = name, id, kms = kms_name, %who, "keyspace created");
        let mut payload = Vec::new();
        encode_keyspace_id(id, &mut payload);
        acknowledge(settled, payload)
    }

    /// Makes a KMS's own key; the shares, if it is kept in shares.
    async fn initialise(
        &self,
        name: &str,
        shares: u8,
        threshold: u8,
        passphrase: Zeroizing<Vec<u8>>,
    ) -> Answer {
        let kms = self.kms.get(name).map_err(|error| refusal(&error))?;
        let how = how_to_initialise(shares, threshold, passphrase);
        let how = how.map_err(|error| refusal(&error))?;
        let shares = kms.initialise(how).await;
        let shares = shares.map_err(|error| refusal(&error))?;
        tracing::info!(
            kms = name,
            shares = shares.len(),
            "the KMS has a key of its own now"
        );
        encode_shares(&shares)
    }

    fn resume_resealing(self: &Rc<Self>) {
        let unfinished: Vec<u32> = {
            let catalogue = self.written();
            let unfinished = catalogue
                .iter()
                .filter(|(_, keyspace)| keyspace.dek_count() > 1);
            unfinished.map(|(id, _)| id).collect()
        };
        for id in unfinished {
            self.start_resealing(id);
        }
    }

    async fn status(&self, after: u64) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = || (Status::Internal, "the exporter has stopped".to_owned());
        self.exporter
            .send(exporter::Message::Status { after, answer })
            .await
            .map_err(|_| gone())?;
        Ok(answered.await.map_err(|_| gone())?.into_bytes())
    }

    /// The catalogue as it is written.
    fn written(&self) -> Ref<'_, Catalogue> {
        Ref::map(self.in_force.borrow(), InForce::written)
    }

    fn push_snapshot(&self) {
        self.count_key_versions();
        let mut figures: Vec<_> = self
            .kms
            .iter()
            .map(|(name, kms)| KmsSnapshot {
                trouble: self.troubles.borrow().snapshot(name, crate::clock::now()),
                key_versions: self.key_versions(name),
                ..kms.figures(name)
            })
            .collect();
        for (id, keyspace) in self.written().iter() {
            let of_its_kms = figures.iter_mut().find(|kms| kms.name == keyspace.kms);
            if let (Some(kms), Ok(settings)) = (of_its_kms, keyspace.settings()) {
                let calls = self.renewals_per_lease * keyspace.dek_count() as f64;
                let per_hour = calls * MS_PER_HOUR / settings.dek_lease_ms as f64;
                kms.lease_calls_per_hour.insert(id, per_hour);
            }
        }
        exporter::offer(&self.exporter, Snapshot::Kms(figures));
    }
}

/// A keyspace as shards need it at the start, with its current ticket.
pub fn config_of(
    id: u32,
    keyspace: &Keyspace,
    ticket: u64,
) -> Result<KeyspaceConfig, CatalogueError> {
    Ok(KeyspaceConfig {
        id,
        revision: 0,
        ticket,
        name: keyspace.name.clone(),
        settings: keyspace.settings()?,
        policy: keyspace.policy.clone(),
        locked: keyspace.locked,
        seal_floor: keyspace.generation(),
    })
}

fn how_to_initialise(
    shares: u8,
    threshold: u8,
    mut passphrase: Zeroizing<Vec<u8>>,
) -> Result<Initialise, KmsError> {
    if shares == 0 {
        let passphrase = Passphrase::new(std::mem::take(&mut *passphrase))?;
        return Ok(Initialise::Passphrase(passphrase));
    }
    Ok(Initialise::Shares {
        count: shares,
        threshold,
    })
}

/// The answer to KMS_INIT. Its buffer is never moved, so that no copy of a share stays behind.
fn encode_shares(shares: &[Share]) -> Answer {
    let mut payload = Vec::with_capacity(KmsShares::LEN_MAX);
    let encoded = KmsShares::encode(shares.iter().map(Share::expose), &mut payload);
    encoded.map_err(|error| (Status::Internal, error.to_string()))?;
    Ok(payload)
}
