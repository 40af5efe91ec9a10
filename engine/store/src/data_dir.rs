//! The data directory: its lock, its manifest, and where each shard's log lies.
//!
//! ```text
//! DATA/            0700            lock          held while a process serves; its pid
//! ├ store.toml     the manifest    blobs-000001/ the logs of generation 1
//! ├ lock                           ├ shard-000/  00000001.log, 00000002.log, …
//! └ …              the server's    └ shard-001/
//! ```
//!
//! All calls block; they are made before the shards start.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dir_error::DirError;
use crate::log::LogOptions;
use crate::manifest::{Manifest, SHARD_COUNT_MAX};
use crate::marks::Marks;
use crate::revoked::VersionsOf;
use crate::segment::{self, HEADER_LEN};
use crate::std_files::sync_dir;

pub(crate) const MANIFEST_NAME: &str = "store.toml";
const LOCK_NAME: &str = "lock";
pub(crate) const BLOBS_PREFIX: &str = "blobs-";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Lies in a shard's directory if the operator has given up the log that was there.
pub(crate) const START_EMPTY_NAME: &str = "start-empty";
/// The mark that says up to which generation every shard's log has been made.
const LOGS_MARK: &str = "logs";
/// Present in a generation that a reshard found damaged and that is kept for a repair.
const KEEP_NAME: &str = "damaged.txt";

/// A data directory that this process has to itself, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    manifest: Manifest,
    marks: Mutex<Marks>,
    versions_of: VersionsOf,
    /// Locked; the system unlocks it however the process ends.
    _lock: fs::File,
}

impl DataDir {
    /// Takes a data directory, creating it for `shard_count` shards if it is not there or empty.
    /// One that exists keeps its own count: see [`DataDir::manifest`] and [`crate::reshard`]. What
    /// a reshard that did not finish left behind is removed.
    ///
    /// # Errors
    /// See [`DirError`]; each says the remedy.
    pub fn open(path: &Path, shard_count: u16) -> Result<Self, DirError> {
        check_shard_count(shard_count)?;
        enter(path)?;
        let lock = take_lock(path)?;
        let manifest_path = path.join(MANIFEST_NAME);
        let (manifest, marks) = match fs::read_to_string(&manifest_path) {
            Ok(text) => Manifest::from_text(&text).map_err(|why| DirError::Manifest {
                path: manifest_path,
                why,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (create(path, shard_count)?, Marks::default())
            }
            Err(source) => return Err(failed("reading", &manifest_path)(source)),
        };
        let dir = Self {
            path: path.to_owned(),
            manifest,
            marks: Mutex::new(marks),
            versions_of: |_| None,
            _lock: lock,
        };
        dir.remove_leftovers()?;
        for shard in 0..manifest.shard_count {
            dir.check_shard(shard)?;
        }
        Ok(dir)
    }

    /// A shard's directory is there, and in it a log, if there ever was one.
    fn check_shard(&self, shard: u16) -> Result<(), DirError> {
        let path = self.shard_dir(shard);
        if !path.is_dir() {
            return Err(DirError::ShardMissing { path });
        }
        let has_log = has_segment(&path, 0).map_err(failed("listing", &path))?;
        let given_up = path.join(START_EMPTY_NAME);
        if has_log {
            // It has served its purpose: another loss is to be noticed.
            match fs::remove_file(&given_up) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("removing", &given_up)(error));
                }
                _ => return Ok(()),
            }
        }
        let was_made = self.mark(LOGS_MARK) >= u64::from(self.manifest.generation);
        if was_made && !given_up.exists() {
            return Err(DirError::LogMissing { path });
        }
        Ok(())
    }

    /// How high something was marked; 0 if it never was.
    pub fn mark(&self, name: &str) -> u64 {
        self.marks().get(name)
    }

    /// Marks how far things have come, durably. A mark that is higher already stays.
    ///
    /// # Errors
    /// The disk fails; then the marks are the old ones or the new ones. There would be more than
    /// [`MARKS_MAX`](crate::MARKS_MAX).
    ///
    /// # Panics
    /// If a name has other characters than letters, digits,
    /// `.`, `_` and `-`, or more than [`MARK_NAME_LEN_MAX`](crate::MARK_NAME_LEN_MAX): names are the program's.
    pub fn raise_marks(&self, marks: &[(&str, u64)]) -> Result<(), DirError> {
        // Held over the writing, so that the file never regresses.
        let mut held = self.marks();
        let Some(raised) = held.raised(marks) else {
            return Ok(());
        };
        raised.check().map_err(|why| DirError::Manifest {
            path: self.path.join(MANIFEST_NAME),
            why,
        })?;
        let text = self.manifest.to_text(&raised);
        replace_file(&self.path, MANIFEST_NAME, text.as_bytes())?;
        *held = raised;
        Ok(())
    }

    /// Marks that every shard's log has been made: from now on one that is missing is a loss.
    ///
    /// # Errors
    /// As [`DataDir::raise_marks`].
    pub fn mark_logs(&self) -> Result<(), DirError> {
        self.raise_marks(&[(LOGS_MARK, u64::from(self.manifest.generation))])
    }

    /// Whether a log of the generation in use holds a record.
    ///
    /// # Errors
    /// The disk fails.
    pub fn has_records(&self) -> Result<bool, DirError> {
        for shard in 0..self.manifest.shard_count {
            let path = self.shard_dir(shard);
            if has_segment(&path, HEADER_LEN as u64 + 1).map_err(failed("listing", &path))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn options_of(&self, manifest: &Manifest, shard: u16) -> Result<LogOptions, DirError> {
        let dir = shard_dir(&self.path, manifest.generation, shard);
        let Manifest {
            cluster_id,
            generation,
            shard_count,
            ..
        } = *manifest;
        let mut options = LogOptions::new(dir, cluster_id, generation, shard, shard_count);
        options.index_seed = random_bytes()?;
        options.versions_of = self.versions_of;
        Ok(options)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // A thread that panicked with it had not changed it.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the directory is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Sets what tells the versions that a blob holds, for all logs of the directory: see [`LogOptions::versions_of`].
    #[must_use]
    pub fn with_versions_of(mut self, versions_of: VersionsOf) -> Self {
        self.versions_of = versions_of;
        self
    }

    /// Options to open a shard's log with, with a fresh random index seed.
    ///
    /// # Errors
    /// The system has no random bytes.
    ///
    /// # Panics
    /// If `shard_index` is not below the manifest's shard count.
    pub fn log_options(&self, shard_index: u16) -> Result<LogOptions, DirError> {
        assert!(
            shard_index < self.manifest.shard_count,
            "shard {shard_index} is not there"
        );
        self.options_of(&self.manifest, shard_index)
    }

    /// Replaces a file of the data directory as a whole, durably; mode 0600. `name` is a plain
    /// file name, and none of the store's own.
    ///
    /// # Errors
    /// The disk fails; then the file is the old one or the new one.
    ///
    /// # Panics
    /// If `name` is one of the store's own or has a path separator: names are the program's.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), DirError> {
        let own = name == MANIFEST_NAME || name == LOCK_NAME || name.starts_with(BLOBS_PREFIX);
        assert!(
            !own && !name.is_empty() && !name.contains('/'),
            "{name} cannot be written"
        );
        replace_file(&self.path, name, bytes)
    }

    /// Where a shard's segments lie.
    pub(crate) fn shard_dir(&self, shard: u16) -> PathBuf {
        shard_dir(&self.path, self.manifest.generation, shard)
    }

    /// Creates the directories of the manifest that is to come.
    pub(crate) fn create_generation(&self, next: &Manifest) -> Result<Vec<LogOptions>, DirError> {
        create_generation(&self.path, next)?;
        (0..next.shard_count)
            .map(|shard| self.options_of(next, shard))
            .collect()
    }

    /// Keeps the present generation on the disk when it is no longer in use.
    pub(crate) fn keep_generation(&self, why: &str) -> Result<PathBuf, DirError> {
        let dir = blobs_dir(&self.path, self.manifest.generation);
        replace_file(&dir, KEEP_NAME, why.as_bytes())?;
        Ok(dir)
    }

    /// Makes the next manifest the one in force; the moment at which a reshard happens.
    pub(crate) fn switch(&mut self, next: Manifest) -> Result<(), DirError> {
        let text = next.to_text(&self.marks());
        replace_file(&self.path, MANIFEST_NAME, text.as_bytes())?;
        self.manifest = next;
        Ok(())
    }

    /// Removes generations that are not in use, and files half written.
    pub(crate) fn remove_leftovers(&self) -> Result<(), DirError> {
        let in_use = blobs_dir(&self.path, self.manifest.generation);
        let entries = fs::read_dir(&self.path).map_err(failed("listing", &self.path))?;
        let mut removed = false;
        for entry in entries {
            let path = entry.map_err(failed("listing", &self.path))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if generation_of(name).is_some() && path != in_use && !path.join(KEEP_NAME).exists() {
                fs::remove_dir_all(&path).map_err(failed("removing", &path))?;
                removed = true;
            } else if name == format!("{MANIFEST_NAME}{TEMPORARY_SUFFIX}") {
                fs::remove_file(&path).map_err(failed("removing", &path))?;
                removed = true;
            }
        }
        if removed {
            sync_dir(&self.path).map_err(failed("syncing", &self.path))
        } else {
            Ok(())
        }
    }
}

pub(crate) fn check_shard_count(count: u16) -> Result<(), DirError> {
    if (1..=SHARD_COUNT_MAX).contains(&count) {
        Ok(())
    } else {
        Err(DirError::ShardCount(count))
    }
}

/// Makes sure that the directory is there and its owner's alone.
fn enter(path: &Path) -> Result<(), DirError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(source) => return Err(failed("creating the data directory", path)(source)),
    }
    let metadata = fs::metadata(path).map_err(failed("looking at", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    // A volume that Kubernetes gave to the pod's own group (`fsGroup`) is given to it again at every mount.
    let given_to_us = mode & 0o2007 == 0o2000 && is_our_group(metadata.gid());
    if mode & 0o077 != 0 && !given_to_us {
        // An empty directory was made for us, by mkdir or a mount; one with files in it may be
        // anything, and is not ours to change.
        let is_empty = fs::read_dir(path)
            .map_err(failed("listing", path))?
            .next()
            .is_none();
        if !is_empty {
            return Err(DirError::LoosePermissions {
                path: path.to_owned(),
                mode,
            });
        }
        // The directory of a mounted volume is another user's.
        let loose = |_| DirError::LoosePermissions {
            path: path.to_owned(),
            mode,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(loose)?;
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        sync_dir(parent).map_err(failed("syncing", parent))?;
    }
    Ok(())
}

/// Whether this process is in the group. Root needs none.
fn is_our_group(gid: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let numbers = line.unwrap_or_default().split_whitespace();
        numbers
            .filter_map(|id| id.parse().ok())
            .collect::<Vec<u32>>()
    };
    let is_root = ids("Uid:").get(1) == Some(&0);
    !is_root && (ids("Gid:").get(1) == Some(&gid) || ids("Groups:").contains(&gid))
}

fn take_lock(path: &Path) -> Result<fs::File, DirError> {
    let lock_path = path.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut lock = options
        .open(&lock_path)
        .map_err(failed("opening", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message: what the holder has not written yet is not known.
            let known = lock.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let pid = if known {
                pid.trim().to_owned()
            } else {
                "unknown".to_owned()
            };
            return Err(DirError::InUse {
                path: path.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed("locking", &lock_path)(source)),
    }
    let written = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(failed("writing", &lock_path))?;
    Ok(lock)
}

fn create(path: &Path, shard_count: u16) -> Result<Manifest, DirError> {
    let entries = fs::read_dir(path).map_err(failed("listing", path))?;
    for entry in entries {
        let entry = entry.map_err(failed("listing", path))?.path();
        let name = entry.file_name().and_then(|name| name.to_str());
        if name.and_then(generation_of).is_none() {
            continue;
        }
        // Directories alone are what a first start leaves that did not come to its manifest.
        if has_segments(&entry).map_err(failed("listing", &entry))? {
            return Err(DirError::ManifestMissing {
                path: path.to_owned(),
            });
        }
    }
    let manifest = Manifest {
        cluster_id: random_bytes()?,
        routing_seed: random_bytes()?,
        shard_count,
        generation: 1,
    };
    create_generation(path, &manifest)?;
    let text = manifest.to_text(&Marks::default());
    replace_file(path, MANIFEST_NAME, text.as_bytes())?;
    Ok(manifest)
}

fn has_segments(generation_dir: &Path) -> io::Result<bool> {
    for shard in fs::read_dir(generation_dir)? {
        let shard = shard?.path();
        if shard.is_dir() && has_segment(&shard, 0)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is a segment of at least so many bytes.
fn has_segment(shard_dir: &Path, len_min: u64) -> io::Result<bool> {
    for file in fs::read_dir(shard_dir)? {
        let file = file?;
        let name = file.file_name();
        let is_segment = name
            .to_str()
            .is_some_and(|name| segment::number_of(name).is_some());
        if is_segment && file.metadata()?.len() >= len_min {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes an empty generation, durable names included; what lies there of an earlier try goes.
fn create_generation(path: &Path, manifest: &Manifest) -> Result<(), DirError> {
    let blobs = blobs_dir(path, manifest.generation);
    match fs::remove_dir_all(&blobs) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("removing", &blobs)(source)),
    }
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder.create(&blobs).map_err(failed("creating", &blobs))?;
    for shard in 0..manifest.shard_count {
        let dir = shard_dir(path, manifest.generation, shard);
        builder.create(&dir).map_err(failed("creating", &dir))?;
    }
    sync_dir(&blobs).map_err(failed("syncing", &blobs))?;
    sync_dir(path).map_err(failed("syncing", path))
}

fn blobs_dir(path: &Path, generation: u32) -> PathBuf {
    path.join(format!("{BLOBS_PREFIX}{generation:06}"))
}

fn shard_dir(path: &Path, generation: u32, shard: u16) -> PathBuf {
    blobs_dir(path, generation).join(format!("shard-{shard:03}"))
}

fn generation_of(name: &str) -> Option<u32> {
    name.strip_prefix(BLOBS_PREFIX)?.parse().ok()
}

fn random_bytes() -> Result<[u8; 16], DirError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| DirError::Io {
        what: "drawing random bytes".into(),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

/// Temporary file, sync, rename, sync: after a crash the file is the old one or the new one.
fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DirError> {
    let temporary = dir.join(format!("{name}{TEMPORARY_SUFFIX}"));
    let target = dir.join(name);
    let written = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        sync_dir(dir)
    };
    written().map_err(failed("writing", &target))
}

pub(crate) fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> DirError {
    move |source| DirError::Io {
        what: format!("{doing} {}", path.display()),
        source,
    }
}
