//! Where bytes come from and go to: files, standard streams, the command line.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::printable;

/// Bytes that are wiped when they are dropped. All input is read into these, since it may be key
/// material or a plaintext.
pub type Wiped = Zeroizing<Vec<u8>>;

/// A file, or a standard stream, written `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathOrStdio {
    /// Standard input or output.
    Standard,
    /// A file.
    File(PathBuf),
}

/// What an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Anything that may be seen.
    Open,
    /// A secret: kept from terminals, and in a file kept from others.
    Secret {
        /// Write it even to a terminal.
        force: bool,
    },
}

/// Bytes given on the command line: text, `hex:…`, or `@FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// The content of a file.
    FromFile(PathBuf),
}

impl FromStr for PathOrStdio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("name a file, or write - for the standard stream".into()),
            "-" => Ok(Self::Standard),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl PathOrStdio {
    /// Its name in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Standard => "standard input".into(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Reads at most `len_max` bytes; more are a usage failure that says `remedy`.
    pub fn read(&self, len_max: usize, remedy: &str) -> Result<Wiped, Failure> {
        match self {
            Self::Standard => {
                let name = Path::new("standard input");
                read_all(io::stdin().lock(), name, 0, len_max, remedy)
            }
            Self::File(path) => read_file(path, len_max, remedy),
        }
    }

    /// Writes all of `bytes`.
    pub fn write(&self, bytes: &[u8], content: Content) -> Result<(), Failure> {
        self.open(content)?.write(bytes)
    }

    /// Opens it for one writing, before there is anything to write. What a file holds is replaced
    /// when it is written, not before.
    pub fn open(&self, content: Content) -> Result<Sink<'_>, Failure> {
        match self {
            Self::Standard => {
                self.check(content)?;
                Ok(Sink::Standard)
            }
            Self::File(path) => open_to_write(path, content)
                .map(|file| Sink::File(file, path))
                .map_err(|error| Failure::file("write", path, &error)),
        }
    }

    /// Fails if `content` must not go here, before anything is asked of the server.
    pub fn check(&self, content: Content) -> Result<(), Failure> {
        if matches!(content, Content::Secret { force: false })
            && *self == Self::Standard
            && io::stdout().is_terminal()
        {
            return Err(Failure::usage(
                "standard output is a terminal, and this would show a secret on it",
                "write it to a file with --out FILE, or give --force",
            ));
        }
        Ok(())
    }
}

/// A place that is open.
#[derive(Debug)]
pub enum Sink<'a> {
    /// Standard output.
    Standard,
    /// A file, and its path for messages.
    File(File, &'a Path),
}

impl Sink<'_> {
    /// Writes all of `bytes`, replacing the content of the file.
    pub fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Standard => print(bytes),
            Self::File(file, path) => {
                replace(file, bytes).map_err(|error| Failure::file("write", path, &error))
            }
        }
    }
}

fn replace(mut file: File, bytes: &[u8]) -> io::Result<()> {
    // Devices and pipes have no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(bytes)
}

fn open_to_write(path: &Path, content: Content) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    if content == Content::Open {
        return options.open(path);
    }
    let file = options.mode(0o600).open(path)?;
    // A file that was there before keeps its mode: narrow it before the secret goes in. Devices
    // and pipes are not ours to change.
    if file.metadata()?.is_file() {
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
    }
    Ok(file)
}

/// Reads a file of at most `len_max` bytes.
pub fn read_file(path: &Path, len_max: usize, remedy: &str) -> Result<Wiped, Failure> {
    let failure = |error: io::Error| Failure::file("read", path, &error);
    let file = File::open(path).map_err(failure)?;
    let metadata = file.metadata().map_err(failure)?;
    let len_hint = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    read_all(file, path, len_hint, len_max, remedy)
}

fn read_all(
    mut source: impl Read,
    name: &Path,
    len_hint: usize,
    len_max: usize,
    remedy: &str,
) -> Result<Wiped, Failure> {
    // Growing a vector leaves the old bytes behind, unwiped: it gets all its room at the start.
    let room = if len_hint == 0 {
        len_max
    } else {
        len_hint.min(len_max)
    };
    let mut bytes = Zeroizing::new(vec![0; room.saturating_add(1)]);
    let mut len = 0;
    loop {
        if len == bytes.len() {
            if len > len_max {
                return Err(Failure::usage(
                    format!("{} has more than {len_max} bytes", name.display()),
                    remedy,
                ));
            }
            // The file has grown since its length was read.
            let mut larger = Zeroizing::new(vec![0; len_max + 1]);
            larger[..len].copy_from_slice(&bytes);
            bytes = larger;
        }
        match source.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::file("read", name, &error)),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Writes to standard output.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::stream("standard output", &error))
}

/// Writes a line to standard error. A failure cannot be reported.
pub fn eprint_line(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable::line(line));
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix('@') {
            return Ok(Self::FromFile(path.into()));
        }
        match text.strip_prefix("hex:") {
            None => Ok(Self::Inline(text.as_bytes().to_vec())),
            Some(digits) => hex(digits).map(Self::Inline).ok_or_else(|| {
                "hex: wants pairs of digits, as in hex:00ff; give text that starts with hex: in a \
                 file, as @FILE"
                    .into()
            }),
        }
    }
}

impl Bytes {
    /// The bytes; at most `len_max`.
    pub fn load(&self, name: &str, len_max: usize) -> Result<Wiped, Failure> {
        match self {
            Self::Inline(bytes) if bytes.len() > len_max => Err(Failure::usage(
                format!("{name} has {} bytes", bytes.len()),
                format!("at most {len_max} are allowed"),
            )),
            Self::Inline(bytes) => Ok(Zeroizing::new(bytes.clone())),
            Self::FromFile(path) => read_file(path, len_max, "it is too long for this option"),
        }
    }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs
        .iter()
        .map(|&[high, low]| Some((digit(high)? * 16 + digit(low)?) as u8))
        .collect()
}

/// Prompts on the terminal for confirmation, which is given by typing `word`.
pub fn confirm(doing: &str, what_it_means: &str, word: &str) -> Result<(), Failure> {
    let stopped = |why: String| {
        let remedy = "nothing was done; to go on without a question: --yes";
        Failure::usage(format!("{doing}: {why}"), remedy)
    };
    if !io::stdin().is_terminal() {
        return Err(stopped("standard input is no terminal to ask on".into()));
    }
    eprint_line(&format!("{what_it_means}."));
    eprint_line(&format!("Type {word} to go on:"));
    let mut typed = String::new();
    let read = io::BufRead::read_line(&mut io::stdin().lock().take(1_024), &mut typed);
    read.map_err(|error| stopped(format!("cannot read the answer: {error}")))?;
    if typed.trim() == word {
        return Ok(());
    }
    Err(stopped(format!("that was not {word}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bytes_are_text_hex_or_a_files_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aad");
        fs::write(&path, b"\0\xff").unwrap();
        let load = |text: &str| text.parse::<Bytes>().unwrap().load("aad", 8);
        assert_eq!(**load("plain").unwrap(), *b"plain");
        assert_eq!(**load("hex:00fF").unwrap(), *b"\0\xff");
        assert_eq!(**load(&format!("@{}", path.display())).unwrap(), *b"\0\xff");
        assert!(load("nine bytes").is_err());
        assert!("hex:0".parse::<Bytes>().is_err());
        assert!("hex:zz".parse::<Bytes>().is_err());
        assert!("hex:é0".parse::<Bytes>().is_err());
    }

    #[test]
    fn input_is_read_up_to_its_limit_and_not_beyond() {
        let read = |bytes: &[u8], hint, max| read_all(bytes, Path::new("x"), hint, max, "less");
        assert_eq!(**read(b"12345678", 8, 8).unwrap(), *b"12345678");
        assert_eq!(**read(b"12345678", 0, 8).unwrap(), *b"12345678");
        assert_eq!(**read(b"12345678", 2, 8).unwrap(), *b"12345678");
        assert!(read(b"123456789", 9, 8).is_err());
        assert!(read(b"123456789", 1, 8).is_err());
        assert!(read(b"", 0, 8).unwrap().is_empty());
    }

    #[test]
    fn what_a_file_holds_stays_until_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shares");
        fs::write(&path, "from before").unwrap();
        let place = PathOrStdio::File(path.clone());
        let sink = place.open(Content::Secret { force: false }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"from before");
        sink.write(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_secret_is_written_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "something longer from before").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let place = PathOrStdio::File(path.clone());
        place
            .write(b"secret", Content::Secret { force: false })
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
