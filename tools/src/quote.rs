//! What a message may quote of a file that holds keys. This function decides it, and nothing else
//! does: a key may stand in the wrong member, and then its bytes would stand in a log.
//!
//! That holds for ids as well: in a file whose members are in each other's places, the id is a key. Messages name the line.

/// What is wrong with a member's text: its length, and what is allowed, but none of it.
pub fn of_key_file(member: &str, text: &str, allowed: &str) -> String {
    let len = text.len();
    format!("{member}: a text of {len} bytes that is not {allowed}")
}
