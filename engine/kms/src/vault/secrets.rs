//! Reads tokens and secret ids from their files into memory that is wiped.

use std::path::Path;

use bytes::Bytes;
use hyper::header::HeaderValue;
use zeroize::{Zeroize, Zeroizing};

use super::json::wiped;
use crate::private_file::{self, Rule};
use crate::{Cause, Class, KmsError};

/// Longest token or secret id, in bytes: batch tokens have some hundred, and the header must fit the server's limit.
const SECRET_FILE_BYTES_MAX: usize = 8 * 1024;

pub(super) fn read_token(path: &Path) -> Result<HeaderValue, KmsError> {
    header(read_secret(path)?).ok_or_else(|| not_a_secret(path))
}

/// Creates a header that is not printed, and is wiped when its last clone is dropped.
pub(super) fn header(token: Zeroizing<Vec<u8>>) -> Option<HeaderValue> {
    let bytes: Bytes = wiped(token);
    let mut header = HeaderValue::from_maybe_shared(bytes).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Reads one line of printable ASCII. One trailing line end is removed.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let mut bytes = private_file::read(path, Rule::Credential, SECRET_FILE_BYTES_MAX)
        .map_err(|error| error.from_cause(Cause::File))?;
    let line_len = match bytes.as_slice() {
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line.len(),
        line => line.len(),
    };
    bytes[line_len..].zeroize();
    bytes.truncate(line_len);
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(not_a_secret(path));
    }
    Ok(bytes)
}

fn not_a_secret(path: &Path) -> KmsError {
    KmsError::new(
        Class::Misconfigured,
        format!("{} is not one line of printable ASCII", path.display()),
        "put the token or secret id there, alone and without spaces",
    )
    .from_cause(Cause::File)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_secret_is_one_line_in_a_private_file() {
        for good in ["s.abc", "s.abc\n", "s.abc\r\n"] {
            let (_directory, path) = file(good.as_bytes(), 0o600);
            assert_eq!(read_secret(&path).unwrap().as_slice(), b"s.abc");
        }
        let long = vec![b'a'; SECRET_FILE_BYTES_MAX + 1];
        for bad in [
            b"".as_slice(),
            b"\n",
            b"a b",
            b"a\nb",
            b"\xff",
            b"a\0",
            &long,
        ] {
            let (_directory, path) = file(bad, 0o600);
            let error = read_secret(&path).unwrap_err();
            assert_eq!(error.class(), Class::Misconfigured, "{bad:?}");
        }
        let (_directory, path) = file(b"s.abc", 0o644);
        assert!(read_secret(&path).unwrap_err().what().contains("0644"));
    }

    #[test]
    fn a_token_prints_nothing_and_lies_where_it_is_wiped() {
        let bytes = Zeroizing::new(b"s.abc".to_vec());
        let wiped_at = bytes.as_ptr();
        let token = header(bytes).unwrap();
        assert_eq!(format!("{token:?}"), "Sensitive");
        assert_eq!(token.clone().as_bytes().as_ptr(), wiped_at);
    }
}
