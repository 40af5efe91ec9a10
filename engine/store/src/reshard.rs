//! Starting with another shard count: every key moves to its new owner's log.
//!
//! The new generation is written beside the old one, made durable as a whole, and only then named
//! by the manifest. A crash before that leaves the old one in force, a crash after it the new one;
//! the next start removes the other.

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use crate::batch::Staged;
use crate::data_dir::{DataDir, check_shard_count};
use crate::dir_error::DirError;
use crate::error::{OpenError, PutError, ReadError};
use crate::limits::BATCH_BYTES_MAX;
use crate::list::Moving;
use crate::log::{BlobLog, LogOptions};
use crate::manifest::Manifest;
use crate::receipt::Receipt;
use crate::record::Kind;
use crate::recover::{Damage, Progress};
use crate::seam::Files;
use crate::std_files::{StdFiles, now};

/// How far a reshard has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReshardProgress {
    /// Old shards that have been moved as a whole.
    pub shards_done: u16,
    /// Old shards.
    pub shards_total: u16,
    /// Keys moved.
    pub records_done: u64,
}

/// What a reshard did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReshardReport {
    /// Keys moved.
    pub records: u64,
    /// Keys among them that are damaged, and answered so by their new owner.
    pub damaged_records: u64,
    /// Damaged places in the old logs, by old shard.
    pub damage: Vec<(u16, Damage)>,
    /// The old logs, kept because of the damage; for the operator to repair or remove.
    pub kept: Option<PathBuf>,
}

/// Why a reshard did not happen. The old shard count stays in force, and nothing is lost.
#[derive(Debug)]
pub enum ReshardError {
    /// The data directory.
    Dir(DirError),
    /// A log did not open; the shard.
    Open(u16, OpenError),
    /// An old log could not be read; the shard.
    Read(u16, ReadError),
    /// A new log could not be written; the shard.
    Put(u16, PutError),
    /// The routing function named a shard that is not there: the caller's fault.
    Route {
        /// The shard that it named.
        shard: usize,
        /// How many there are.
        shard_count: u16,
    },
    /// Fewer or more keys arrived than set out: ours.
    Count {
        /// Keys in the old logs.
        old: u64,
        /// Keys in the new logs.
        new: u64,
    },
}

impl fmt::Display for ReshardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the keys could not be moved to another number of shards: ")?;
        match self {
            Self::Dir(error) => write!(f, "{error}"),
            Self::Open(shard, error) => write!(f, "shard {shard}: {error}"),
            Self::Read(shard, error) => write!(f, "shard {shard}: {error}"),
            Self::Put(shard, error) => write!(f, "new shard {shard}: {error}"),
            Self::Route { shard, shard_count } => {
                write!(f, "a key was routed to shard {shard} of {shard_count}")
            }
            Self::Count { old, new } => {
                write!(
                    f,
                    "{old} keys set out and {new} arrived; the old logs stay in use"
                )
            }
        }
    }
}

impl std::error::Error for ReshardError {}

impl From<DirError> for ReshardError {
    fn from(error: DirError) -> Self {
        Self::Dir(error)
    }
}

/// Moves every key to the log of its owner among `shard_count` shards, and makes that the count in
/// force. Blocks; needs as much free disk as the live records take, and memory for the index of
/// all keys and of one old shard.
///
/// `route` gives a key's owner, below `shard_count`, from its keyspace and key id. Revisions and
/// versions stay as they were. If the old logs are damaged they are kept, see
/// [`ReshardReport::kept`].
///
/// # Errors
/// See [`ReshardError`]; the directory is as it was.
pub fn reshard(
    data: &mut DataDir,
    shard_count: u16,
    route: impl Fn(u32, &[u8]) -> usize,
    progress: impl FnMut(ReshardProgress),
) -> Result<ReshardReport, ReshardError> {
    check_shard_count(shard_count)?;
    let old = *data.manifest();
    let next = Manifest {
        shard_count,
        generation: old.generation + 1,
        ..old
    };
    let to = data.create_generation(&next)?;
    let from = (0..old.shard_count).map(|shard| data.log_options(shard));
    let from = from.collect::<Result<Vec<_>, _>>()?;
    let mut report = now(move_keys(&StdFiles, from, to, route, progress))?;
    if !report.damage.is_empty() {
        report.kept = Some(data.keep_generation(&damage_text(&report.damage))?);
    }
    data.switch(next)?;
    data.remove_leftovers()?;
    Ok(report)
}

/// The part of [`reshard`] that touches logs: copies every key of the logs `from` to its owner's
/// among the logs `to`, which are empty. On return all of it is durable; until then `from` is in
/// force, and afterwards it still holds every key.
///
/// # Errors
/// As [`reshard`].
pub async fn move_keys<F: Files + Clone>(
    files: &F,
    from: Vec<LogOptions>,
    to: Vec<LogOptions>,
    route: impl Fn(u32, &[u8]) -> usize,
    mut progress: impl FnMut(ReshardProgress),
) -> Result<ReshardReport, ReshardError> {
    let shard_count = to.len() as u16;
    let mut owners = Vec::new();
    for (shard, options) in (0..).zip(to) {
        let opened = BlobLog::open(files.clone(), options, |_: Progress| {}).await;
        let (log, _) = opened.map_err(|error| ReshardError::Open(shard, error))?;
        owners.push(Owner {
            log,
            shard,
            staged_bytes: 0,
            receipt: Receipt::new(),
        });
    }
    let mut report = ReshardReport::default();
    let mut set_out = 0;
    let mut done = ReshardProgress {
        shards_total: from.len() as u16,
        ..Default::default()
    };
    for (shard, options) in (0..).zip(from) {
        let opened = BlobLog::open(files.clone(), options, |_: Progress| {}).await;
        let (log, recovery) = opened.map_err(|error| ReshardError::Open(shard, error))?;
        set_out += recovery.live_records as u64;
        report
            .damage
            .extend(recovery.damage.into_iter().map(|damage| (shard, damage)));
        let mut cursor = (0, 0);
        loop {
            let page = log.records_from(cursor).await;
            let page = page.map_err(|error| ReshardError::Read(shard, error))?;
            for row in page.rows {
                let is_key = row.kind.is_of_key();
                report.records += u64::from(is_key);
                report.damaged_records += u64::from(row.kind == Kind::Lost);
                let to = route(row.keyspace, &row.key_id);
                let owner = owners.get_mut(to).ok_or(ReshardError::Route {
                    shard: to,
                    shard_count,
                })?;
                owner.take(row).await?;
            }
            done.records_done = report.records;
            progress(done);
            match page.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        done.shards_done = shard + 1;
        progress(done);
    }
    let mut arrived = 0;
    for owner in &mut owners {
        owner.flush().await?;
        let closed = owner.log.close().await;
        closed.map_err(|error| ReshardError::Put(owner.shard, error))?;
        arrived += owner.log.stats().live_records as u64;
    }
    if set_out != report.records || arrived != report.records {
        return Err(ReshardError::Count {
            old: set_out,
            new: arrived,
        });
    }
    Ok(report)
}

fn damage_text(damage: &[(u16, Damage)]) -> String {
    let mut text = String::from(
        "These logs were damaged when their keys were moved to another number of shards.\n\
         They are no longer in use and may be removed.\n",
    );
    for (
        shard,
        Damage {
            segment,
            offset,
            len,
            key,
        },
    ) in damage
    {
        text += &format!("shard {shard}, segment {segment}, byte {offset}, {len} bytes: ");
        text += &match key {
            Some((keyspace, key_id, version)) => format!(
                "keyspace {keyspace}, key {}, version {version}\n",
                String::from_utf8_lossy(key_id)
            ),
            None => "the key cannot be determined\n".to_owned(),
        };
    }
    text
}

/// A new log, and what it has taken that is not yet durable.
struct Owner<F: Files> {
    log: BlobLog<F>,
    shard: u16,
    staged_bytes: usize,
    receipt: Rc<Receipt>,
}

impl<F: Files> Owner<F> {
    async fn take(&mut self, row: Moving) -> Result<(), ReshardError> {
        self.staged_bytes += row.key_id.len() + row.blob.len();
        let hash = {
            let state = self.log.shared.state.borrow();
            state.index.hash(row.keyspace, &row.key_id)
        };
        let staged = Staged {
            hash,
            kind: row.kind,
            revision: row.revision,
            keyspace: row.keyspace,
            version: row.version,
            key_id: row.key_id,
            blob: row.blob,
            copy_of: None,
        };
        self.log.stage_moved(staged, &self.receipt);
        if self.staged_bytes >= BATCH_BYTES_MAX {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), ReshardError> {
        self.staged_bytes = 0;
        let flushed = self.log.durable(&self.receipt).await;
        flushed.map_err(|error| ReshardError::Put(self.shard, error))
    }
}
