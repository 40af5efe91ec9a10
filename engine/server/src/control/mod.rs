//! The control thread: the only one that calls a KMS, and the owner of the keyspaces.
//!
//! ```text
//!  shards ──ControlRequest──▶ control thread (tokio) ──▶ KMS
//!         ◀──ControlEvent───   keyspaces.json
//! ```
//!
//! A change is written to disk, then acted on by every shard, and only then acknowledged.

pub mod catalogue;
mod hot;
pub mod hot_keys;
mod key_versions;
pub mod kms;
mod lease;
pub mod messages;
pub mod opening;
pub mod page;
mod rotation;
pub mod settings;
mod tickets;
mod troubles;
mod unlock;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use keyway_kms::{Initialise, KmsError, Passphrase, Service, Share};
use keyway_protocol::{KmsShares, Status, encode_keyspace_id};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::authorise::Principal;
use crate::clock;
use crate::metrics::exporter;
use crate::metrics::snapshot::{KmsSnapshot, Snapshot};
use catalogue::{Catalogue, CatalogueError, FIRST_GENERATION, Keyspace};
use hot_keys::HotKeys;
use kms::{Kms, KmsSet, refusal};
use lease::Deks;
use messages::{Command, ControlEvent, ControlRequest, KeyspaceConfig, ReplyTo};
use rotation::Progress;
use tickets::Tickets;
use troubles::Troubles;
use unlock::Given;

/// How often the KMS's figures go to the exporter.
pub const SNAPSHOT_PERIOD: Duration = Duration::from_secs(1);

const MS_PER_HOUR: f64 = 3_600_000.0;

/// Name of the line in a new keyspace's settings that says which KMS wraps its DEKs.
const KMS_LINE: &str = "kms=";

/// Rows of JSON that one KEYSPACE_LIST answer carries.
const LIST_ROWS_MAX: usize = 32;

/// Writes the catalogue's file as a whole, durably.
pub type Save = Box<dyn Fn(&[u8]) -> std::io::Result<()> + Send>;

/// What the control thread owns.
pub struct Control<K = Service> {
    kms: KmsSet<K>,
    catalogue: RefCell<Catalogue>,
    save: Save,
    hot_keys: HotKeys,
    shards: Vec<mpsc::Sender<ControlEvent>>,
    exporter: mpsc::Sender<exporter::Message>,
    /// Of a lease in use, while it lasts.
    renewals_per_lease: f64,
    tickets: RefCell<Tickets>,
    /// What is wrong at the KMSes.
    troubles: RefCell<Troubles>,
    key_versions: RefCell<key_versions::Counted>,
    /// Locks of each keyspace so far, so that an unlock knows whether one came between.
    locks: RefCell<HashMap<u32, u64>>,
    /// Keyspaces of which the KMS is being asked for the DEKs, for the shards.
    asking: RefCell<HashSet<u32>>,
    /// Keyspaces of which blobs are being sealed under a new DEK.
    resealing: RefCell<HashMap<u32, Progress>>,
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
        shards: Vec<mpsc::Sender<ControlEvent>>,
        exporter: mpsc::Sender<exporter::Message>,
        renew_early_ppm: u32,
    ) -> Self {
        Control {
            kms,
            catalogue: RefCell::new(catalogue),
            save,
            hot_keys,
            shards,
            exporter,
            renewals_per_lease: keyway_core::renewals_per_lease(renew_early_ppm),
            tickets: RefCell::default(),
            troubles: RefCell::default(),
            key_versions: RefCell::default(),
            locks: RefCell::default(),
            asking: RefCell::default(),
            resealing: RefCell::default(),
            page: page::Feed::default(),
        }
    }

    /// Tells the live page what only this thread knows.
    #[must_use]
    pub fn with_page(self, page: page::Feed) -> Self {
        Control { page, ..self }
    }

    /// Serves requests until every shard has said in `stopped` that it has. Each time that
    /// `second` ends, the KMS's figures go to the exporter. To be run in a `LocalSet`.
    pub async fn run(
        self,
        mut requests: mpsc::Receiver<ControlRequest>,
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
                    control.hot_keys.write_aside();
                }
                // Once nobody can ask any more, the shards are still to be counted.
                Some(request) = requests.recv() => match request {
                    ControlRequest::Unwrap { keyspace } => {
                        tokio::task::spawn_local(Rc::clone(&control).lease(keyspace));
                    }
                    ControlRequest::Hottest { shard, keys } => control.hot_keys.take(shard, keys),
                    // The shard has answered DEADLINE_EXCEEDED, or is about to.
                    ControlRequest::Admin { deadline: Some(deadline), .. }
                        if clock::now() >= deadline => {}
                    ControlRequest::Admin { reply_to, who, command, .. } => {
                        let answered = Rc::clone(&control).administer(reply_to, who, command);
                        tokio::task::spawn_local(answered);
                    }
                },
            }
        }
        // Each shard named its hottest keys before it said that it had stopped.
        while let Ok(request) = requests.try_recv() {
            if let ControlRequest::Hottest { shard, keys } = request {
                control.hot_keys.take(shard, keys);
            }
        }
        control.hot_keys.write().await;
    }

    /// A warm start: keyspaces that had hot keys will be used, so their DEKs are fetched before anybody asks, within
    /// the budget of their KMS.
    fn ask_for_hot_keyspaces(self: &Rc<Self>) {
        for keyspace in self.hot_keys.keyspaces() {
            tokio::task::spawn_local(Rc::clone(self).lease(keyspace));
        }
    }

    async fn administer(self: Rc<Self>, reply_to: ReplyTo, who: Principal, command: Command) {
        let answer = match command {
            Command::Create { name, lines } => self.create(&name, &lines, who).await,
            Command::Set { keyspace, lines } => self.set(keyspace, &lines, who).await,
            Command::List { after, visible } => Ok(self.list(after, &visible)),
            Command::History { keyspace } => self.history(keyspace),
            Command::Lock { keyspace } => self.lock(keyspace, who).await,
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
            Command::Status => self.status().await,
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
        self.send(reply_to.shard, event).await;
    }

    async fn create(&self, name: &str, lines: &str, who: Principal) -> Answer {
        let id = {
            let catalogue = self.catalogue.borrow();
            catalogue.check_new(name)?;
            catalogue.next_id()
        };
        let (kms_name, lines) = settings::take_line(lines, KMS_LINE);
        let kms_name = kms_name.unwrap_or(self.kms.default_name());
        let kms = self.kms.get(kms_name).map_err(|error| refusal(&error))?;
        let made = kms.new_dek(id, FIRST_GENERATION).await;
        let dek = made.map_err(|error| refusal(&error))?;
        let mut changed = self.catalogue.borrow().clone();
        if changed.next_id() != id {
            // Another creation came between; its id is bound into our DEK.
            return Err((
                Status::Overloaded,
                "another keyspace was being made; try again".into(),
            ));
        }
        changed.create(name, &lines, kms_name, &dek.record, &settings::by(who))?;
        self.commit(changed)?;
        self.publish(id).await?;
        // It was proven by an unwrap: the first use need not wait for another.
        let deks = Deks::of_new(FIRST_GENERATION, dek);
        self.tell_lease(id, &Ok(deks)).await;
        tracing::info!(keyspace = name, id, kms = kms_name, %who, "keyspace created");
        let mut payload = Vec::new();
        encode_keyspace_id(id, &mut payload);
        Ok(payload)
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
            let catalogue = self.catalogue.borrow();
            let unfinished = catalogue
                .iter()
                .filter(|(_, keyspace)| keyspace.deks().is_ok_and(|deks| deks.len() > 1));
            unfinished.map(|(id, _)| id).collect()
        };
        for id in unfinished {
            self.start_resealing(id);
        }
    }

    fn list(&self, after: u32, visible: &[u32]) -> Vec<u8> {
        let catalogue = self.catalogue.borrow();
        let mut rows: Vec<_> = catalogue
            .iter()
            .filter(|(id, _)| *id > after && visible.contains(id))
            .take(LIST_ROWS_MAX + 1)
            .map(|(id, keyspace)| {
                let settings: HashMap<&str, String> = keyspace
                    .settings()
                    .map(|settings| settings.iter().collect())
                    .unwrap_or_default();
                let allow: HashMap<&str, &str> = keyspace.policy.iter().collect();
                let limited: HashMap<&str, Value> = keyspace
                    .limited()
                    .map(|(name, limited, then)| {
                        let until_unix_ms = limited.until_unix_ms;
                        (
                            name,
                            json!({ "until_unix_ms": until_unix_ms, "then": then }),
                        )
                    })
                    .collect();
                json!({
                    "id": id,
                    "name": keyspace.name,
                    "locked": keyspace.locked,
                    "kms": keyspace.kms,
                    "generation": keyspace.generation(),
                    "reseal": self.resealing.borrow().get(&id).map(|progress| progress.json()),
                    "settings": settings,
                    "allow": allow,
                    "limited": limited,
                })
            })
            .collect();
        let more = rows.len() > LIST_ROWS_MAX;
        rows.truncate(LIST_ROWS_MAX);
        json!({ "keyspaces": rows, "more": more })
            .to_string()
            .into_bytes()
    }

    async fn status(&self) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = || (Status::Internal, "the exporter has stopped".to_owned());
        self.exporter
            .send(exporter::Message::Status(answer))
            .await
            .map_err(|_| gone())?;
        Ok(answered.await.map_err(|_| gone())?.into_bytes())
    }

    /// Writes the catalogue, then makes it the one in force.
    fn commit(&self, changed: Catalogue) -> Result<(), (Status, String)> {
        (self.save)(changed.text().as_bytes()).map_err(|error| {
            (
                Status::Internal,
                format!("{} could not be written: {error}", catalogue::FILE),
            )
        })?;
        *self.catalogue.borrow_mut() = changed;
        Ok(())
    }

    /// Tells every shard of a keyspace and waits until they act by it.
    async fn publish(&self, id: u32) -> Result<(), (Status, String)> {
        let config = config_of(id, self.catalogue.borrow().keyspace(id)?)?;
        self.broadcast(|done| ControlEvent::Keyspace {
            config: Box::new(config.clone()),
            done,
        })
        .await;
        Ok(())
    }

    async fn broadcast<T>(&self, event: impl Fn(oneshot::Sender<T>) -> ControlEvent) -> Vec<T> {
        let mut waiting = Vec::with_capacity(self.shards.len());
        for shard in 0..self.shards.len() {
            let (done, wait) = oneshot::channel();
            self.send(shard as u16, event(done)).await;
            waiting.push(wait);
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for wait in waiting {
            // A shard that has stopped holds nothing any more, and has nothing to say.
            answers.extend(wait.await);
        }
        answers
    }

    async fn send(&self, shard: u16, event: ControlEvent) {
        // A closed channel is a shard that has stopped.
        let _ = self.shards[usize::from(shard)].send(event).await;
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
        for (id, keyspace) in self.catalogue.borrow().iter() {
            let of_its_kms = figures.iter_mut().find(|kms| kms.name == keyspace.kms);
            if let (Some(kms), Ok(settings), Ok(deks)) =
                (of_its_kms, keyspace.settings(), keyspace.deks())
            {
                let calls = self.renewals_per_lease * deks.len() as f64;
                let per_hour = calls * MS_PER_HOUR / settings.dek_lease_ms as f64;
                kms.lease_calls_per_hour.insert(id, per_hour);
            }
        }
        exporter::offer(&self.exporter, Snapshot::Kms(figures));
    }
}

/// A keyspace as shards need it.
pub fn config_of(id: u32, keyspace: &Keyspace) -> Result<KeyspaceConfig, CatalogueError> {
    Ok(KeyspaceConfig {
        id,
        name: keyspace.name.clone(),
        settings: keyspace.settings()?,
        policy: keyspace.policy.clone(),
        locked: keyspace.locked,
    })
}

impl From<CatalogueError> for (Status, String) {
    fn from(error: CatalogueError) -> Self {
        let status = match error {
            CatalogueError::Bad(_) => Status::BadRequest,
            CatalogueError::Exists(_) => Status::Conflict,
            CatalogueError::Missing(_) => Status::NoKeyspace,
        };
        (status, error.to_string())
    }
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
