//! Files that nobody but us may read: who may touch them is checked before a byte is read, and they are written so
//! that a crash leaves the old file or the new one.
//!
//! The checks are made on the open descriptor, and the file is opened relative to the directory that was checked, so
//! nobody can swap either in between. Only the last directory is looked at: whoever can rename the ones above it is
//! trusted, as for every other file of the service.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::secret::fill_random;
use crate::{Class, KmsError, hex};

const ROOT_UID: u32 = 0;

/// Who besides us may have a hand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Ours alone: we own it, and the mode is 0600 or stricter.
    Ours,
    /// Placed by the service manager: owned by us or by root, and closed to the world. The group may read, because
    /// systemd hands credentials over with an access control list, whose mask shows as the group's bits.
    Credential,
}

/// What the checks look at.
#[derive(Clone, Copy, Debug)]
struct Facts {
    mode: u32,
    owner_uid: u32,
    our_uid: u32,
}

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
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            owner_uid: stat.st_uid,
            our_uid: rustix::process::geteuid().as_raw(),
        })
    }
}

fn check_file(path: &Path, facts: Facts, rule: Rule) -> Result<(), KmsError> {
    let (forbidden, owner_ok) = match rule {
        Rule::Ours => (0o177, facts.owner_uid == facts.our_uid),
        Rule::Credential => (
            0o137,
            facts.owner_uid == facts.our_uid || facts.owner_uid == ROOT_UID,
        ),
    };
    if !owner_ok {
        return Err(wrong_owner(path, facts));
    }
    if facts.mode & forbidden != 0 {
        return Err(loose(path, facts, "0600"));
    }
    Ok(())
}

fn check_directory(path: &Path, facts: Facts) -> Result<(), KmsError> {
    if facts.owner_uid != facts.our_uid && facts.owner_uid != ROOT_UID {
        return Err(wrong_owner(path, facts));
    }
    if facts.mode & 0o022 != 0 {
        return Err(loose(path, facts, "go-w"));
    }
    Ok(())
}

fn loose(path: &Path, facts: Facts, wanted: &str) -> KmsError {
    KmsError::new(
        Class::Misconfigured,
        format!(
            "{} has mode {:04o}, which lets other users at it",
            path.display(),
            facts.mode
        ),
        format!("run: chmod {wanted} {}", quoted(path)),
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

/// The path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The class tells a mistake in the set-up from a device that fails.
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

/// Reads a private file of at most `bytes_max` bytes, anywhere.
pub(crate) fn read(
    path: &Path,
    rule: Rule,
    bytes_max: usize,
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let descriptor = rustix::fs::open(path, read_flags(), Mode::empty())
        .map_err(|errno| io_error("cannot open", path, errno))?;
    read_checked(descriptor, path, rule, bytes_max)
}

/// O_NONBLOCK: opening a pipe that nobody writes to must fail the check for a regular file, not hang.
fn read_flags() -> OFlags {
    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK
}

fn read_checked(
    descriptor: OwnedFd,
    path: &Path,
    rule: Rule,
    bytes_max: usize,
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    check_file(
        path,
        Facts::of(&descriptor, path, FileType::RegularFile)?,
        rule,
    )?;
    read_bounded(File::from(descriptor), path, bytes_max)
}

/// Reads to the end into one allocation, so that no copies are left behind by growth.
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

/// Where one private file lives: its name in a directory that was checked and is held open.
#[derive(Debug)]
pub(crate) struct Place {
    directory: OwnedFd,
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
        let directory_path = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&directory_path, flags, Mode::empty())
            .map_err(|errno| io_error("cannot open the directory", &directory_path, errno))?;
        check_directory(
            &directory_path,
            Facts::of(&directory, &directory_path, FileType::Directory)?,
        )?;
        Ok(Self {
            directory,
            directory_path,
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is nothing of that name. A link that leads nowhere is something.
    pub(crate) fn is_missing(&self) -> Result<bool, KmsError> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(false),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(io_error("cannot inspect", &self.path, errno)),
        }
    }

    /// Checks who may touch the file, and reads it. It must be ours, and have at most `bytes_max` bytes.
    pub(crate) fn read(&self, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let descriptor =
            rustix::fs::openat(&self.directory, &self.name, read_flags(), Mode::empty())
                .map_err(|errno| io_error("cannot open", &self.path, errno))?;
        read_checked(descriptor, &self.path, Rule::Ours, bytes_max)
    }

    /// Makes the file, durably and whole. A file that is already there stays, and is an error.
    pub(crate) fn create(&self, bytes: &[u8]) -> Result<(), KmsError> {
        self.write(bytes, |temporary| {
            // A hard link, unlike a rename, never replaces what is there.
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

    /// Replaces the file, durably: a crash leaves the old one or the new one.
    pub(crate) fn replace(&self, bytes: &[u8]) -> Result<(), KmsError> {
        self.write(bytes, |temporary| {
            rustix::fs::renameat(&self.directory, temporary, &self.directory, &self.name)
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
            // Best effort: what stays behind has mode 0600 and a name that nothing reads.
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
        // The mask of the process may have taken bits away from the mode asked for.
        rustix::fs::fchmod(&descriptor, mode)?;
        let mut file = File::from(descriptor);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| errno(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o700);
        directory
    }

    #[test]
    fn permissions_table() {
        // (rule, owner, mode, allowed); we are user 1000.
        let table = [
            (Rule::Ours, 1000, 0o600, true),
            (Rule::Ours, 1000, 0o400, true),
            (Rule::Ours, 1000, 0o000, true),
            (Rule::Ours, 1000, 0o700, false),
            (Rule::Ours, 1000, 0o640, false),
            (Rule::Ours, 1000, 0o620, false),
            (Rule::Ours, 1000, 0o610, false),
            (Rule::Ours, 1000, 0o604, false),
            (Rule::Ours, 1000, 0o602, false),
            (Rule::Ours, 1000, 0o601, false),
            (Rule::Ours, 1000, 0o644, false),
            (Rule::Ours, 1000, 0o666, false),
            (Rule::Ours, 0, 0o600, false),
            (Rule::Ours, 1001, 0o600, false),
            (Rule::Credential, 1000, 0o400, true),
            (Rule::Credential, 0, 0o440, true),
            (Rule::Credential, 0, 0o600, true),
            (Rule::Credential, 0, 0o444, false),
            (Rule::Credential, 0, 0o460, false),
            (Rule::Credential, 0, 0o550, false),
            (Rule::Credential, 1001, 0o400, false),
        ];
        for (rule, owner_uid, mode, allowed) in table {
            let facts = Facts {
                mode,
                owner_uid,
                our_uid: 1000,
            };
            let result = check_file(Path::new("/etc/kek"), facts, rule);
            assert_eq!(result.is_ok(), allowed, "{rule:?} {facts:?}");
        }
        let table = [
            (1000, 0o700, true),
            (1000, 0o755, true),
            (0, 0o755, true),
            (1000, 0o775, false),
            (1000, 0o757, false),
            (0, 0o1777, false),
            (1001, 0o700, false),
        ];
        for (owner_uid, mode, allowed) in table {
            let facts = Facts {
                mode,
                owner_uid,
                our_uid: 1000,
            };
            assert_eq!(
                check_directory(Path::new("/etc"), facts).is_ok(),
                allowed,
                "{facts:?}"
            );
        }
    }

    #[test]
    fn the_message_names_the_mode_and_the_command() {
        let facts = Facts {
            mode: 0o644,
            owner_uid: 1,
            our_uid: 1,
        };
        let error = check_file(Path::new("/srv/it's/kek"), facts, Rule::Ours).unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured);
        assert!(error.what().contains("0644"), "{error}");
        assert_eq!(error.remedy(), r"run: chmod 0600 '/srv/it'\''s/kek'");
    }

    #[test]
    fn loose_permissions_on_real_files_are_refused() {
        let directory = directory();
        let path = directory.path().join("kek");
        Place::open(&path).unwrap().create(b"secret").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(
            Place::open(&path).unwrap().read(100).unwrap().as_slice(),
            b"secret"
        );
        set_mode(&path, 0o640);
        assert!(
            Place::open(&path)
                .unwrap()
                .read(100)
                .unwrap_err()
                .what()
                .contains("0640")
        );
        set_mode(&path, 0o600);
        set_mode(directory.path(), 0o770);
        assert!(
            Place::open(&path)
                .unwrap_err()
                .remedy()
                .contains("chmod go-w")
        );
    }

    #[test]
    fn links_directories_and_long_files_are_refused() {
        let directory = directory();
        let path = directory.path().join("kek");
        let link = directory.path().join("link");
        Place::open(&path).unwrap().create(b"secret").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for bad in [
            &link,
            &directory.path().join("none"),
            &directory.path().to_owned(),
        ] {
            assert_eq!(
                read(bad, Rule::Ours, 100).unwrap_err().class(),
                Class::Misconfigured
            );
        }
        assert!(
            read(&path, Rule::Ours, 5)
                .unwrap_err()
                .what()
                .contains("longer than 5")
        );
        assert!(read(&path, Rule::Ours, 6).is_ok());
    }

    #[test]
    fn creating_never_overwrites_and_leaves_nothing_behind() {
        let directory = directory();
        let path = directory.path().join("kek");
        let place = Place::open(&path).unwrap();
        place.create(b"first").unwrap();
        assert!(
            place
                .create(b"second")
                .unwrap_err()
                .what()
                .contains("exists already")
        );
        assert_eq!(fs::read(&path).unwrap(), b"first");
        place.replace(b"third").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
