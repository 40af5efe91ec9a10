//! Sources of a passphrase: the terminal, an open descriptor, the service manager, or a private file.
//!
//! Never argv or an environment variable: other processes can read both, and children inherit them.
//! `$CREDENTIALS_DIRECTORY` only names a directory.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::passphrase::PASSPHRASE_BYTES_MAX;
use crate::private_file::{self, Rule};
use crate::{Class, KmsError, Passphrase};

/// The credential's file name in the service manager's directory.
pub const CREDENTIAL_NAME: &str = "keyway-passphrase";

const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// A passphrase and its line end.
const READ_BYTES_MAX: usize = PASSPHRASE_BYTES_MAX + 2;

/// The purpose for which the passphrase is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// It must match an existing one: the terminal prompts once.
    Existing,
    /// It is being chosen: the terminal prompts twice.
    New,
}

/// Where to read a passphrase from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassphraseSource {
    /// The terminal, without echo.
    Prompt,
    /// An inherited pipe or file, by its descriptor number. It is read to its end.
    Descriptor(u32),
    /// The file `keyway-passphrase` in the directory where the service manager puts this service's credentials.
    Credential {
        /// The directory.
        directory: PathBuf,
    },
    /// A file that belongs to this user and that no other user may read.
    File(PathBuf),
}

impl PassphraseSource {
    /// Returns the service manager's credential directory, from `$CREDENTIALS_DIRECTORY`.
    pub fn service_manager() -> Result<Self, KmsError> {
        Self::credential_in(std::env::var_os(CREDENTIALS_DIRECTORY))
    }

    fn credential_in(directory: Option<OsString>) -> Result<Self, KmsError> {
        match directory {
            Some(directory) if Path::new(&directory).is_absolute() => Ok(Self::Credential {
                directory: directory.into(),
            }),
            _ => Err(KmsError::new(
                Class::Misconfigured,
                format!("${CREDENTIALS_DIRECTORY} does not name a directory"),
                format!(
                    "let the unit say LoadCredentialEncrypted={CREDENTIAL_NAME}, or choose another source"
                ),
            )),
        }
    }

    /// Returns `true` if the service manager has a passphrase for this service; it may have only other credentials.
    pub fn has_service_manager() -> bool {
        Self::credential_is_there(std::env::var_os(CREDENTIALS_DIRECTORY))
    }

    fn credential_is_there(directory: Option<OsString>) -> bool {
        directory.is_some_and(|directory| {
            let path = Path::new(&directory).join(CREDENTIAL_NAME);
            // A credential that exists but cannot be read is an error when it is read.
            std::fs::symlink_metadata(path).is_ok()
        })
    }

    /// Reads the passphrase and checks it. Blocks: on the terminal, or until a pipe's writer closes it.
    pub fn read(&self, asking: Asking) -> Result<Passphrase, KmsError> {
        match self {
            Self::Prompt => ask(asking, rpassword::prompt_password),
            Self::Descriptor(number) => read_descriptor(*number),
            Self::Credential { directory } => take(private_file::read(
                &directory.join(CREDENTIAL_NAME),
                Rule::Credential,
                READ_BYTES_MAX,
            )?),
            Self::File(path) => take(private_file::read(path, Rule::Credential, READ_BYTES_MAX)?),
        }
    }
}

fn take(mut bytes: Zeroizing<Vec<u8>>) -> Result<Passphrase, KmsError> {
    Passphrase::new(std::mem::take(&mut *bytes))
}

/// Opens the descriptor's entry in `/proc` instead of adopting its number, which is not this function's to close. As a
/// consequence, a socket cannot be read, and a pipe must belong to this user.
fn read_descriptor(number: u32) -> Result<Passphrase, KmsError> {
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    let file = File::open(&path).map_err(|error| {
        KmsError::new(
            Class::Misconfigured,
            format!("cannot read descriptor {number}: {error}"),
            format!("open a pipe or a file of your own on it, as in: {number}< FILE"),
        )
    })?;
    take(private_file::read_bounded(file, &path, READ_BYTES_MAX)?)
}

fn ask(
    asking: Asking,
    mut prompt: impl FnMut(&'static str) -> std::io::Result<String>,
) -> Result<Passphrase, KmsError> {
    let mut once = |text| {
        prompt(text).map_err(|error| {
            KmsError::new(
                Class::Misconfigured,
                format!("cannot ask for the passphrase: {error}"),
                "run in a terminal, or give a descriptor, a credential or a file instead",
            )
        })
    };
    match asking {
        Asking::Existing => Passphrase::new(once("Passphrase: ")?.into_bytes()),
        Asking::New => {
            let chosen = Passphrase::new(once("New passphrase: ")?.into_bytes())?;
            chosen.check_choice()?;
            let repeated = Zeroizing::new(once("The same again: ")?.into_bytes());
            if chosen.expose() != repeated.as_slice() {
                return Err(KmsError::new(
                    Class::Misconfigured,
                    "the two passphrases differ",
                    "start again; nothing was changed",
                ));
            }
            Ok(chosen)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(mode: u32, text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CREDENTIAL_NAME);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_private_file_is_read_and_a_readable_one_refused() {
        for (mode, allowed) in [
            (0o600, true),
            (0o400, true),
            (0o660, false),
            (0o604, false),
            (0o644, false),
        ] {
            let (_directory, path) = file(mode, "correct horse\n");
            let result = PassphraseSource::File(path).read(Asking::Existing);
            match result {
                Ok(passphrase) => assert!(
                    allowed && passphrase.expose() == b"correct horse",
                    "{mode:o}"
                ),
                Err(error) => {
                    assert!(!allowed, "{error}");
                    assert!(error.what().contains(&format!("{mode:04o}")), "{error}");
                    assert!(error.remedy().contains("chmod 0600"), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_credential_may_be_readable_by_a_private_group() {
        let is_private = crate::group::is_private(rustix::process::getegid().as_raw());
        for (mode, allowed) in [(0o400, true), (0o440, is_private), (0o444, false)] {
            let (directory, _path) = file(mode, "correct horse");
            let source = PassphraseSource::credential_in(Some(directory.path().into())).unwrap();
            assert_eq!(source.read(Asking::Existing).is_ok(), allowed, "{mode:o}");
        }
        let (directory, path) = file(0o400, "correct horse");
        let there = || PassphraseSource::credential_is_there(Some(directory.path().into()));
        assert!(there() && !PassphraseSource::credential_is_there(None));
        fs::rename(&path, directory.path().join("bao-token")).unwrap();
        assert!(!there(), "another credential is not a passphrase");
        for none in [None, Some("".into()), Some("relative".into())] {
            let error = PassphraseSource::credential_in(none).unwrap_err();
            assert!(error.remedy().contains("LoadCredential"), "{error}");
        }
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"correct horse\n").unwrap();
        drop(writer);
        let number = u32::try_from(reader.as_raw_fd()).unwrap();
        let passphrase = PassphraseSource::Descriptor(number)
            .read(Asking::Existing)
            .unwrap();
        assert_eq!(passphrase.expose(), b"correct horse");
        let error = PassphraseSource::Descriptor(1_000_000)
            .read(Asking::Existing)
            .unwrap_err();
        assert!(error.what().contains("1000000"), "{error}");
    }

    #[test]
    fn a_new_passphrase_is_asked_for_twice() {
        let answers = |asking, answers: &[&str]| {
            let mut answers = answers.iter();
            let result = ask(asking, |_| Ok((*answers.next().unwrap()).to_owned()));
            assert_eq!(answers.len(), 0, "every answer was asked for");
            result
        };
        assert!(answers(Asking::Existing, &["correct horse"]).is_ok());
        assert!(answers(Asking::New, &["correct horse", "correct horse"]).is_ok());
        let error = answers(Asking::New, &["correct horse", "correct house"]).unwrap_err();
        assert!(error.what().contains("differ"), "{error}");
        let error = answers(Asking::New, &["short"]).unwrap_err();
        assert!(error.what().contains("5 bytes"), "{error}");
    }
}
