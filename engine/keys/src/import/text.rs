//! What editors and shells do to files of text.

use crate::error::KeyError;

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text without the byte order mark that Windows programs put before UTF-8. UTF-16 is refused
/// by name: read as bytes it is neither PEM nor JSON.
pub(super) fn plain(bytes: &[u8]) -> Result<&[u8], KeyError> {
    let is_utf16 = match bytes {
        [0xff, 0xfe, _, 0, ..] | [0xfe, 0xff, 0, ..] => true,
        // Without a mark: PEM's dashes, or a brace.
        [b'-' | b'{', 0, _, 0, ..] | [0, b'-' | b'{', 0, ..] => true,
        _ => false,
    };
    if is_utf16 {
        return Err(KeyError::import(
            "text in UTF-16",
            "write it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW",
        ));
    }
    Ok(bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes))
}
