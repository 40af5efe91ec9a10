//! What a message may quote of a file that holds keys. This function decides it, and nothing else
//! does: a key may stand in the wrong member, and then its bytes would stand in a log.
//!
//! Only an id that a key may have is named as it is: it is what the file calls its key, and every
//! listing of the server shows it.

/// What is wrong with a member's text: its length, and what is allowed, but none of it.
pub fn of_key_file(member: &str, text: &str, allowed: &str) -> String {
    let len = text.len();
    format!("{member}: a text of {len} bytes that is not {allowed}")
}
