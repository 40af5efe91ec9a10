//! Requests and answers as JSON, without unwiped copies of secrets.
//!
//! Answers are borrowed from the body. A text with an escape cannot be borrowed and is refused: base64 and tokens have
//! none.

use bytes::Bytes;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Encodes an object of texts, in a buffer that is wiped when its last clone is dropped. Names and values are printable
/// ASCII: the settings and the secret files are checked for it, and the rest is base64.
pub(super) fn object(fields: &[(&str, &[u8])]) -> Bytes {
    let room = fields
        .iter()
        .map(|(name, value)| name.len() + 2 * value.len() + r#""":"","#.len())
        .sum::<usize>();
    let mut text = Zeroizing::new(Vec::with_capacity(room + "{}".len()));
    text.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":\"");
        for &byte in *value {
            if matches!(byte, b'"' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'"');
    }
    text.push(b'}');
    wiped(text)
}

/// Bytes that can be shared, and are wiped when the last holder drops them.
pub(super) fn wiped(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(bytes)
}

/// `data` of encrypt and datakey.
#[derive(Deserialize)]
pub(super) struct Ciphertext<'a> {
    pub(super) ciphertext: &'a str,
}

/// `data` of decrypt and datakey.
#[derive(Deserialize)]
pub(super) struct Plaintext<'a> {
    pub(super) plaintext: &'a str,
}

/// `data` of lookup-self.
#[derive(Deserialize)]
pub(super) struct LookedUp {
    /// In s; 0 if it never expires.
    pub(super) ttl: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// `auth` of a login and a renewal.
#[derive(Deserialize)]
pub(super) struct LoggedIn<'a> {
    pub(super) client_token: &'a str,
    /// In s; 0 if it never expires.
    pub(super) lease_duration: u64,
    pub(super) renewable: bool,
}

/// Returns the answer's `data`, or `None` if it has another shape.
pub(super) fn data<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    #[derive(Deserialize)]
    struct Envelope<T> {
        data: T,
    }
    let envelope: Envelope<T> = serde_json::from_slice(body).ok()?;
    Some(envelope.data)
}

/// Returns the answer's `auth`, or `None` if there is none.
pub(super) fn auth(body: &[u8]) -> Option<LoggedIn<'_>> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        auth: LoggedIn<'a>,
    }
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    Some(envelope.auth)
}

/// Returns the reasons of a refusal, or `None` if it is not from Vault.
pub(super) fn errors(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<String>,
    }
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    Some(envelope.errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_json_and_fills_no_more_than_its_room() {
        let object = object(&[("role_id", b"a"), ("secret_id", br#"q"\"#)]);
        assert_eq!(object, br#"{"role_id":"a","secret_id":"q\"\\"}"#.as_slice());
        let parsed: serde_json::Value = serde_json::from_slice(&object).unwrap();
        assert_eq!(parsed["secret_id"], r#"q"\"#);
        assert_eq!(super::object(&[]), b"{}".as_slice());
    }

    #[test]
    fn answers_are_borrowed_and_an_escaped_secret_is_refused() {
        let body = br#"{"data":{"plaintext":"AAAA","more":1},"auth":null}"#;
        assert_eq!(data::<Plaintext>(body).unwrap().plaintext, "AAAA");
        assert!(data::<Ciphertext>(body).is_none());
        assert!(auth(body).is_none());
        assert!(data::<Plaintext>(br#"{"data":{"plaintext":"\u0041AAA"}}"#).is_none());
        assert!(data::<Plaintext>(b"<html>").is_none());
        let body = br#"{"auth":{"client_token":"s.x","lease_duration":5,"renewable":true}}"#;
        assert_eq!(auth(body).unwrap().client_token, "s.x");
        assert_eq!(errors(br#"{"errors":["a","b"]}"#).unwrap(), ["a", "b"]);
        assert!(errors(b"Client sent an HTTP request to an HTTPS server.").is_none());
    }
}
