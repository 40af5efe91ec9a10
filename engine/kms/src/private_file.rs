//! Private files: permissions are checked before a byte is read, and writes are atomic, so that a crash leaves the old
//! file or the new one.
//!
//! The checks use the open descriptor, and the file is opened relative to the checked directory, so neither can be
//! swapped in between. Only the last directory is checked: users that can rename the ones above it are trusted, as for
//! every other file of the service.
//!
//! A secret mounted by Kubernetes is a chain of symbolic links to a file that belongs to root and that a group of the
//! pod's own may read. Links are followed through directories that no other user may change, and a group that only this
//! process is in counts as this user: see [`crate::group`]. The volume's own directory is world-writable and sticky
//! there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::acl::Acl;
use crate::secret::fill_random;
use crate::{Class, KmsError, group, hex};

const ROOT_UID: u32 = 0;

/// Most links on the way to a file, as in the kernel.
const LINKS_MAX: usize = 40;

/// Which other users may have access to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Only this user: the file belongs to it, and the mode is 0600 or stricter. Or it belongs to root, and the group
    /// that may read it is this user's alone. Or it is on a volume that was given to such a group, which the directory
    /// shows.
    Ours,
    /// Placed by a service manager, an orchestrator or an agent: it belongs to this user or to root, and no other user may
    /// read it. The group may, if only this user and root are in it: Kubernetes gives a secret to the pod's group. With an
    /// access control list, which systemd writes for a unit's user and whose mask appears as the group's bits, those that
    /// it names count.
    Credential,
}

/// The input of the checks.
#[derive(Clone, Copy, Debug)]
struct Facts {
    mode: u32,
    owner_uid: u32,
    our_uid: u32,
    /// Only this user is in the group.
    is_group_ours: bool,
    /// Only this user and root may read the file through its group's bits.
    is_group_private: bool,
}

/// Set on the directories of a volume that was given to a group.
const SET_GROUP_ID: u32 = 0o2000;
/// Files in such a directory can be moved or removed only by their owner, the directory's owner and root.
const STICKY: u32 = 0o1000;

impl Facts {
    fn of(descriptor: &OwnedFd, path: &Path, kind: FileType) -> Result<Self, KmsError> {
        let stat = rustix::fs::fstat(descriptor)
            .map_err(|errno| io_error("cannot inspect", path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != kind {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "{} is not a {}",
                    path.display(),
                    if kind == FileType::Directory {
                        "directory"
                    } else {
                        "regular file"
                    }
                ),
                "give the path of the file itself, not of a link, pipe or device",
            ));
        }
        let our_uid = rustix::process::geteuid().as_raw();
        let has_group_bits = stat.st_mode & 0o070 != 0;
        let is_group_private = || match Acl::of(descriptor, stat.st_gid) {
            Some(acl) => acl.is_private(our_uid, group::is_private),
            None => group::is_private(stat.st_gid),
        };
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            owner_uid: stat.st_uid,
            our_uid,
            is_group_private: has_group_bits && is_group_private(),
            is_group_ours: has_group_bits && group::is_ours_alone(stat.st_gid),
        })
    }
}

fn check_file(
    path: &Path,
    facts: Facts,
    rule: Rule,
    on_group_volume: bool,
) -> Result<(), KmsError> {
    let is_ours = facts.owner_uid == facts.our_uid;
    let is_roots = facts.owner_uid == ROOT_UID;
    let (forbidden, owner_ok) = match rule {
        Rule::Ours if is_ours && on_group_volume && facts.is_group_ours => (0o117, true),
        Rule::Ours if is_roots && !is_ours && facts.is_group_ours => (0o137, true),
        Rule::Ours => (0o177, is_ours),
        Rule::Credential if facts.is_group_private => (0o137, is_ours || is_roots),
        Rule::Credential => (0o177, is_ours || is_roots),
    };
    if !owner_ok {
        return Err(wrong_owner(path, facts));
    }
    if facts.mode & forbidden != 0 {
        let wanted = if is_ours { "0600" } else { "0400" };
        return Err(loose(path, facts, wanted));
    }
    Ok(())
}

/// Checks a directory. Returns whether it is on a volume that was given to a group of this user's own.
fn check_directory(path: &Path, facts: Facts) -> Result<bool, KmsError> {
    if facts.owner_uid != facts.our_uid && facts.owner_uid != ROOT_UID {
        return Err(wrong_owner(path, facts));
    }
    let on_group_volume = facts.is_group_ours && facts.mode & SET_GROUP_ID != 0;
    let forbidden = if on_group_volume { 0o002 } else { 0o022 };
    if facts.mode & forbidden != 0 {
        return Err(loose(path, facts, "go-w"));
    }
    Ok(on_group_volume)
}

/// Checks that only this user and root can change the link at `path`.
fn check_link(path: &Path) -> Result<(), KmsError> {
    let directory = directory_of(path);
    let (_, facts) = directory_with_facts(&directory)?;
    let is_trusted = |uid: u32| uid == ROOT_UID || uid == facts.our_uid;
    if facts.mode & STICKY != 0 && is_trusted(facts.owner_uid) {
        let link = rustix::fs::lstat(path)
            .map_err(|errno| io_error("cannot inspect the link", path, errno))?;
        return match is_trusted(link.st_uid) {
            true => Ok(()),
            false => Err(wrong_owner(
                path,
                Facts {
                    owner_uid: link.st_uid,
                    ..facts
                },
            )),
        };
    }
    check_directory(&directory, facts).map(drop)
}

fn loose(path: &Path, facts: Facts, wanted: &str) -> KmsError {
    // What an orchestrator mounts can only be changed where it is declared.
    let is_kubernetes = || {
        let volume = directory_of(path).join("..data");
        volume.symlink_metadata().is_ok()
    };
    let remedy = if path.starts_with("/run/secrets") {
        "set mode 0400 for the secret where the service is declared, and uid to the service's user"
            .to_owned()
    } else if is_kubernetes() {
        "set defaultMode: 0440 for the volume, and fsGroup for the pod".to_owned()
    } else if facts.owner_uid == facts.our_uid {
        format!("run: chmod {wanted} {}", quoted(path))
    } else {
        // Without its group or list, root's file could not be read.
        let (uid, path) = (facts.our_uid, quoted(path));
        format!("run as root: chown {uid} {path} && chmod {wanted} {path}")
    };
    KmsError::new(
        Class::Misconfigured,
        format!(
            "{} has mode {:04o}, which lets other users at it",
            path.display(),
            facts.mode
        ),
        remedy,
    )
}

fn wrong_owner(path: &Path, facts: Facts) -> KmsError {
    KmsError::new(
        Class::Misconfigured,
        format!(
            "{} belongs to user id {}, and we run as {}",
            path.display(),
            facts.owner_uid,
            facts.our_uid
        ),
        format!(
            "run as its owner, or as root: chown {} {}",
            facts.our_uid,
            quoted(path)
        ),
    )
}

/// Returns the path quoted for a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Returns an error whose class distinguishes a configuration error from a failing device.
pub(crate) fn io_error(what: &str, path: &Path, errno: Errno) -> KmsError {
    let what = format!("{what} {}: {}", path.display(), std::io::Error::from(errno));
    match errno {
        Errno::NOENT | Errno::NOTDIR => KmsError::new(Class::Misconfigured, what, "check the path"),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => KmsError::new(
            Class::Misconfigured,
            what,
            "give the service's user access to it",
        ),
        Errno::LOOP => KmsError::new(
            Class::Misconfigured,
            what,
            "give the path of the file itself, not of a link",
        ),
        _ => KmsError::new(
            Class::Unavailable { retry_after: None },
            what,
            "check the disk and the file system",
        ),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Reads a private file of at most `bytes_max` bytes, anywhere, through links if there are any.
pub(crate) fn read(
    path: &Path,
    rule: Rule,
    bytes_max: usize,
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let target = follow(path)?;
    let descriptor = rustix::fs::open(&target, read_flags(), Mode::empty())
        .map_err(|errno| io_error("cannot open", path, errno))?;
    read_checked(descriptor, path, rule, false, bytes_max)
}

/// Returns the target of the links at `path`. Only this user and root may be able to change a directory that contains
/// one: another user could redirect it to a file of this user with another purpose.
fn follow(path: &Path) -> Result<PathBuf, KmsError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        match rustix::fs::readlink(&at, Vec::new()) {
            Ok(target) => {
                let directory = directory_of(&at);
                check_link(&at)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                at = directory.join(target);
            }
            // Not a link, or missing, which shows when it is opened.
            Err(_) => return Ok(at),
        }
    }
    Err(io_error("cannot open", path, Errno::LOOP))
}

/// Returns the directory that `path` is in.
fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn directory_with_facts(path: &Path) -> Result<(OwnedFd, Facts), KmsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| io_error("cannot open the directory", path, errno))?;
    let facts = Facts::of(&directory, path, FileType::Directory)?;
    Ok((directory, facts))
}

/// Opens and checks a directory. Also returns whether it is on a volume that was given to a group of this user's own.
fn open_directory(path: &Path) -> Result<(OwnedFd, bool), KmsError> {
    let (directory, facts) = directory_with_facts(path)?;
    let on_group_volume = check_directory(path, facts)?;
    Ok((directory, on_group_volume))
}

/// Returns the flags for reading. O_NONBLOCK: opening a pipe without a writer must fail the check for a regular file, not
/// hang.
fn read_flags() -> OFlags {
    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK
}

fn read_checked(
    descriptor: OwnedFd,
    path: &Path,
    rule: Rule,
    on_group_volume: bool,
    bytes_max: usize,
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    check_file(
        path,
        Facts::of(&descriptor, path, FileType::RegularFile)?,
        rule,
        on_group_volume,
    )?;
    read_bounded(File::from(descriptor), path, bytes_max)
}

/// Reads to the end into one allocation, so that growth leaves no copies.
pub(crate) fn read_bounded(
    source: impl Read,
    path: &Path,
    bytes_max: usize,
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let mut bytes = Zeroizing::new(vec![0; bytes_max + 1]);
    let mut source = source;
    let mut len = 0;
    while len < bytes.len() {
        match source.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("cannot read", path, errno(&error))),
        }
    }
    if len > bytes_max {
        return Err(KmsError::new(
            Class::Misconfigured,
            format!("{} is longer than {bytes_max} bytes", path.display()),
            "check that the path names the right file",
        ));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// The location of one private file: its name in a directory that was checked and is held open.
#[derive(Debug)]
pub(crate) struct Place {
    directory: OwnedFd,
    on_group_volume: bool,
    directory_path: PathBuf,
    name: OsString,
    path: PathBuf,
}

impl Place {
    /// Opens and checks the directory of `path`. The file itself need not exist.
    pub(crate) fn open(path: &Path) -> Result<Self, KmsError> {
        let Some(name) = path.file_name() else {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!("{} does not name a file", path.display()),
                "give the path of a file",
            ));
        };
        let directory_path = directory_of(path);
        let (directory, on_group_volume) = open_directory(&directory_path)?;
        Ok(Self {
            directory,
            on_group_volume,
            directory_path,
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns `true` if there is no file of that name. A dangling link counts as a file.
    pub(crate) fn is_missing(&self) -> Result<bool, KmsError> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(false),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(io_error("cannot inspect", &self.path, errno)),
        }
    }

    /// Checks the permissions of the file, and reads it. It must belong to this user, and have at most `bytes_max` bytes.
    pub(crate) fn read(&self, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let descriptor =
            rustix::fs::openat(&self.directory, &self.name, read_flags(), Mode::empty())
                .map_err(|errno| io_error("cannot open", &self.path, errno))?;
        let on_group_volume = self.on_group_volume;
        read_checked(
            descriptor,
            &self.path,
            Rule::Ours,
            on_group_volume,
            bytes_max,
        )
    }

    /// Creates the file durably and atomically. It is an error if the file exists.
    pub(crate) fn create(&self, bytes: &[u8]) -> Result<(), KmsError> {
        self.write(bytes, |temporary| {
            // A hard link, unlike a rename, never replaces an existing file.
            rustix::fs::linkat(
                &self.directory,
                temporary,
                &self.directory,
                &self.name,
                AtFlags::empty(),
            )?;
            rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty())
        })
    }

    fn write(
        &self,
        bytes: &[u8],
        publish: impl FnOnce(&OsStr) -> Result<(), Errno>,
    ) -> Result<(), KmsError> {
        let mut suffix = [0; 8];
        fill_random(&SystemRandom::new(), &mut suffix)?;
        let mut temporary = OsString::from(".");
        temporary.push(&self.name);
        temporary.push(format!(".{}.tmp", hex::encode(&suffix)));

        let result = self
            .write_temporary(&temporary, bytes)
            .and_then(|()| publish(&temporary));
        if let Err(errno) = result {
            // Best effort: a leftover file has mode 0600 and a name that is never read.
            let _ = rustix::fs::unlinkat(&self.directory, &temporary, AtFlags::empty());
            if errno == Errno::EXIST {
                return Err(KmsError::new(
                    Class::Misconfigured,
                    format!("{} exists already", self.path.display()),
                    "use it as it is; a key that is overwritten loses everything wrapped under it",
                ));
            }
            return Err(io_error("cannot write", &self.path, errno));
        }
        rustix::fs::fsync(&self.directory)
            .map_err(|errno| io_error("cannot sync the directory", &self.directory_path, errno))
    }

    fn write_temporary(&self, name: &OsStr, bytes: &[u8]) -> Result<(), Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let descriptor = rustix::fs::openat(&self.directory, name, flags, mode)?;
        // The umask may have cleared bits of the requested mode.
        rustix::fs::fchmod(&descriptor, mode)?;
        let mut file = File::from(descriptor);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| errno(&error))
    }
}

#[cfg(test)]
mod tests;
