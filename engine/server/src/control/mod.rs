//! The control thread: the only one that calls a KMS, and the owner of the keyspaces.
//!
//! ```text
//!  shards ──ControlRequest──▶ control thread (tokio) ──▶ KMS
//!         ◀──ControlEvent───   keyspaces.json
//! ```
//!
//! A change is written to disk, then acted on by every shard, and only then acknowledged.

pub mod catalogue;
pub mod kms;
pub mod messages;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use keyway_kms::{ProviderState, Service, UnlockSecret};
use keyway_protocol::{Status, encode_keyspace_id, encode_ticket};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::metrics::exporter;
use crate::metrics::snapshot::Snapshot;
use catalogue::{Catalogue, CatalogueError, Keyspace};
use kms::Kms;
use messages::{Command, ControlEvent, ControlRequest, KeyspaceConfig, ReplyTo};

/// How often the KMS's figures go to the exporter.
pub const SNAPSHOT_PERIOD: Duration = Duration::from_secs(1);

/// Rows of JSON that one KEYSPACE_LIST answer carries.
const LIST_ROWS_MAX: usize = 32;

/// Writes the catalogue's file as a whole, durably.
pub type Save = Box<dyn Fn(&[u8]) -> std::io::Result<()> + Send>;

/// What the control thread owns.
pub struct Control<K = Service> {
    kms: K,
    catalogue: RefCell<Catalogue>,
    save: Save,
    shards: Vec<mpsc::Sender<ControlEvent>>,
    exporter: mpsc::Sender<exporter::Message>,
    unlocks: RefCell<HashMap<u32, Unlock>>,
    next_ticket: RefCell<u64>,
    /// Locks of each keyspace so far, so that an unlock knows whether one came between.
    locks: RefCell<HashMap<u32, u64>>,
}

/// The last unlock of a keyspace.
#[derive(Clone, Debug)]
struct Unlock {
    ticket: u64,
    state: UnlockState,
}

#[derive(Clone, Debug)]
enum UnlockState {
    Pending,
    Opened,
    Failed(String),
}

/// An answer on its way: a status, and the payload or an explanation.
type Answer = Result<Vec<u8>, (Status, String)>;

impl<K: Kms + 'static> Control<K> {
    /// Over a KMS, the keyspaces and the ways to the shards.
    pub fn new(
        kms: K,
        catalogue: Catalogue,
        save: Save,
        shards: Vec<mpsc::Sender<ControlEvent>>,
        exporter: mpsc::Sender<exporter::Message>,
    ) -> Self {
        Control {
            kms,
            catalogue: RefCell::new(catalogue),
            save,
            shards,
            exporter,
            unlocks: RefCell::default(),
            next_ticket: RefCell::new(1),
            locks: RefCell::default(),
        }
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
        let mut running = control.shards.len();
        while running > 0 {
            // In this order, so that no flood of requests keeps the process from stopping.
            tokio::select! {
                biased;
                shard = stopped.recv() => match shard {
                    Some(_) => running -= 1,
                    None => return,
                },
                () = second() => control.push_snapshot(),
                // Once nobody can ask any more, the shards are still to be counted.
                Some(request) = requests.recv() => match request {
                    ControlRequest::Unwrap { shard, keyspace } => {
                        tokio::task::spawn_local(Rc::clone(&control).unwrap_for(shard, keyspace));
                    }
                    ControlRequest::Admin { reply_to, command } => {
                        tokio::task::spawn_local(Rc::clone(&control).administer(reply_to, command));
                    }
                },
            }
        }
    }

    async fn unwrap_for(self: Rc<Self>, shard: u16, keyspace: u32) {
        let (event, dek) = self.unwrap(keyspace).await;
        self.send(
            shard,
            ControlEvent::Lease {
                keyspace,
                event,
                dek,
            },
        )
        .await;
    }

    async fn administer(self: Rc<Self>, reply_to: ReplyTo, command: Command) {
        let answer = match command {
            Command::Create { name, lines } => self.create(&name, &lines).await,
            Command::Set { keyspace, lines } => self.set(keyspace, &lines).await,
            Command::List { after, visible } => Ok(self.list(after, &visible)),
            Command::Lock { keyspace } => self.lock(keyspace).await,
            Command::Unlock {
                keyspace, secret, ..
            } => self.start_unlock(keyspace, secret),
            Command::UnlockStatus { keyspace, ticket } => {
                self.unlock_status(keyspace, ticket).await
            }
            Command::Status => self.status().await,
            Command::Rotate { .. }
            | Command::Rewrap { .. }
            | Command::Initialise { .. }
            | Command::UnlockKms { .. } => Err((
                Status::Unsupported,
                "this server cannot do that to its KMS".into(),
            )),
        };
        let (status, payload) = match answer {
            Ok(payload) => (Status::Ok, payload),
            Err((status, explanation)) => (status, explanation.into_bytes()),
        };
        let event = ControlEvent::Answer {
            token: reply_to.token,
            status,
            payload: payload.into(),
        };
        self.send(reply_to.shard, event).await;
    }

    async fn create(&self, name: &str, lines: &str) -> Answer {
        let id = {
            let catalogue = self.catalogue.borrow();
            catalogue.check_new(name)?;
            catalogue.next_id()
        };
        let dek = self
            .kms
            .new_dek(id, 1)
            .await
            .map_err(|error| kms::refusal(&error))?;
        let mut changed = self.catalogue.borrow().clone();
        if changed.next_id() != id {
            // Another creation came between; its id is bound into our DEK.
            return Err((
                Status::Overloaded,
                "another keyspace was being made; try again".into(),
            ));
        }
        changed.create(name, lines, &dek.wrapped.0)?;
        self.commit(changed)?;
        self.publish(id).await?;
        tracing::info!(keyspace = name, id, "keyspace created");
        let mut payload = Vec::new();
        encode_keyspace_id(id, &mut payload);
        Ok(payload)
    }

    async fn set(&self, id: u32, lines: &str) -> Answer {
        let mut changed = self.catalogue.borrow().clone();
        changed.set(id, lines)?;
        self.commit(changed)?;
        self.publish(id).await?;
        tracing::info!(keyspace = id, settings = %lines.trim().replace('\n', " "), "settings changed");
        Ok(Vec::new())
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
                json!({
                    "id": id,
                    "name": keyspace.name,
                    "locked": keyspace.locked,
                    "settings": settings,
                    "allow": allow,
                })
            })
            .collect();
        let more = rows.len() > LIST_ROWS_MAX;
        rows.truncate(LIST_ROWS_MAX);
        json!({ "keyspaces": rows, "more": more })
            .to_string()
            .into_bytes()
    }

    async fn lock(&self, id: u32) -> Answer {
        let mut changed = self.catalogue.borrow().clone();
        changed.set_locked(id, true)?;
        self.commit(changed)?;
        *self.locks.borrow_mut().entry(id).or_default() += 1;
        self.broadcast(|done| ControlEvent::Lock { keyspace: id, done })
            .await;
        tracing::info!(keyspace = id, "keyspace locked");
        Ok(Vec::new())
    }

    fn start_unlock(self: &Rc<Self>, id: u32, secret: Zeroizing<Vec<u8>>) -> Answer {
        self.catalogue.borrow().keyspace(id)?;
        let ticket = {
            let mut next = self.next_ticket.borrow_mut();
            *next += 1;
            u64::from(id) << 32 | (*next & 0xffff_ffff)
        };
        let unlock = Unlock {
            ticket,
            state: UnlockState::Pending,
        };
        self.unlocks.borrow_mut().insert(id, unlock);
        let control = Rc::clone(self);
        let locks = self.locks_of(id);
        tokio::task::spawn_local(async move {
            let state = match control.unlock(id, secret, locks).await {
                Ok(()) => UnlockState::Opened,
                Err(reason) => {
                    tracing::warn!(keyspace = id, %reason, "unlock failed");
                    UnlockState::Failed(reason)
                }
            };
            if let Some(unlock) = control.unlocks.borrow_mut().get_mut(&id)
                && unlock.ticket == ticket
            {
                unlock.state = state;
            }
        });
        let mut payload = Vec::new();
        encode_ticket(ticket, &mut payload);
        Ok(payload)
    }

    /// Opens the provider if need be, proves that the DEK unwraps, then lets the shards use it,
    /// unless the keyspace was locked again since there were `locks`.
    async fn unlock(
        &self,
        id: u32,
        mut secret: Zeroizing<Vec<u8>>,
        locks: u64,
    ) -> Result<(), String> {
        if !secret.is_empty() {
            let passphrase = keyway_kms::Passphrase::new(std::mem::take(&mut *secret))
                .map_err(|error| error.to_string())?;
            let unlocked = self.kms.unlock(UnlockSecret::Passphrase(passphrase)).await;
            unlocked.map_err(|error| error.to_string())?;
        } else if self.kms.state() == ProviderState::Locked {
            return Err(format!(
                "the KMS is locked and needs {:?}; run `keyway unlock` with --passphrase",
                self.kms.unlock_need()
            ));
        }
        let (generation, wrapped) = self.wrapped_dek(id)?;
        self.kms
            .unwrap_dek(id, generation, &wrapped)
            .await
            .map_err(|e| e.to_string())?;
        if self.locks_of(id) != locks {
            return Err("the keyspace was locked again meanwhile; run `keyway unlock` anew".into());
        }
        let mut changed = self.catalogue.borrow().clone();
        changed
            .set_locked(id, false)
            .map_err(|error| error.to_string())?;
        self.commit(changed).map_err(|(_, reason)| reason)?;
        for shard in 0..self.shards.len() {
            self.send(shard as u16, ControlEvent::Unlock { keyspace: id })
                .await;
        }
        tracing::info!(keyspace = id, "keyspace unlocked");
        Ok(())
    }

    fn is_locked(&self, id: u32) -> bool {
        self.catalogue
            .borrow()
            .keyspace(id)
            .is_ok_and(|keyspace| keyspace.locked)
    }

    fn locks_of(&self, id: u32) -> u64 {
        self.locks.borrow().get(&id).copied().unwrap_or(0)
    }

    async fn unlock_status(&self, id: u32, ticket: u64) -> Answer {
        let Some(unlock) = self.unlocks.borrow().get(&id).cloned() else {
            let locked = self.catalogue.borrow().keyspace(id)?.locked;
            let (state, message) = if locked {
                ("pending", "no unlock was started; run `keyway unlock`")
            } else {
                ("done", "the keyspace is not locked")
            };
            return Ok(status_json(state, message, 0));
        };
        if unlock.ticket != ticket && ticket >> 32 == u64::from(id) {
            return Ok(status_json(
                "failed",
                "a later unlock has taken this one's place",
                0,
            ));
        }
        Ok(match unlock.state {
            UnlockState::Pending => status_json("pending", "asking the KMS", 0),
            UnlockState::Failed(reason) => status_json("failed", &reason, 0),
            UnlockState::Opened => {
                let progress = self
                    .broadcast(|answer| ControlEvent::Reloaded {
                        keyspace: id,
                        answer,
                    })
                    .await;
                let done = progress.iter().all(|(done, _)| *done);
                let reloaded = progress.iter().map(|(_, reloaded)| reloaded).sum();
                let message = if done {
                    "unlocked"
                } else {
                    "loading the keys that were in use"
                };
                status_json(if done { "done" } else { "pending" }, message, reloaded)
            }
        })
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

    fn wrapped_dek(&self, id: u32) -> Result<(u32, Vec<u8>), String> {
        let catalogue = self.catalogue.borrow();
        let keyspace = catalogue.keyspace(id).map_err(|error| error.to_string())?;
        keyspace.wrapped_dek().map_err(|error| error.to_string())
    }

    fn push_snapshot(&self) {
        exporter::offer(&self.exporter, Snapshot::Kms(self.kms.figures()));
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

fn status_json(state: &str, message: &str, keys_reloaded: u64) -> Vec<u8> {
    json!({ "state": state, "message": message, "keys_reloaded": keys_reloaded })
        .to_string()
        .into_bytes()
}
