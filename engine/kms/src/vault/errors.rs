//! Classifies the refusals of a Vault or OpenBao server.
//!
//! The API distinguishes most refusals by their text only. The texts below are those of OpenBao 2.7, and of Vault, from
//! which OpenBao was forked. A refusal with another text is [`Class::Misconfigured`]: nothing is purged, and the text is
//! shown.

use std::fmt;

use hyper::StatusCode;

use crate::{Cause, Class, KmsError};

use super::client::VaultResponse;
use super::json;

/// Longest text of the server that is shown, in characters.
const REASON_CHARS_MAX: usize = 200;

/// A key in one of a server's transit engines.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: String,
    pub(super) mount: String,
    pub(super) key: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the transit engine {} at {}", self.mount, self.address)
    }
}

/// The operations of the transit engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransitCall {
    Wrap,
    Unwrap,
    Generate,
    /// A decrypt that must fail: it shows that the key exists.
    Check,
}

impl TransitCall {
    /// Returns its path below the mount.
    pub(super) const fn endpoint(self) -> &'static str {
        match self {
            Self::Wrap => "encrypt",
            Self::Unwrap | Self::Check => "decrypt",
            Self::Generate => "datakey/plaintext",
        }
    }
}

/// Returns `true` if the key requires a context, and got none.
pub(super) fn is_missing_context(answer: &VaultResponse) -> bool {
    is_bad_request(answer, "missing 'context'")
}

/// Returns `true` if the key could not open the ciphertext.
pub(super) fn is_authentication_failed(answer: &VaultResponse) -> bool {
    is_bad_request(answer, "message authentication failed")
}

/// Returns `true` if the key version in the ciphertext may no longer decrypt, or was deleted.
pub(super) fn is_too_old(answer: &VaultResponse) -> bool {
    is_bad_request(answer, "disallowed by policy (too old)")
}

/// Returns `true` if the key does not exist.
pub(super) fn is_key_missing(answer: &VaultResponse) -> bool {
    is_bad_request(answer, "encryption key not found")
}

/// Returns `true` if the answer is from Vault itself, and not from something in between: only that decides anything.
pub(super) fn is_vaults(answer: &VaultResponse) -> bool {
    json::errors(&answer.body).is_some()
}

/// Returns `true` if a 403 is a decision of the policy about a valid token. OpenBao and Vault then return a list of
/// errors; for an unknown token they return only `permission denied`, or `invalid token`.
pub(super) fn is_policys_refusal(answer: &VaultResponse) -> bool {
    json::errors(&answer.body).is_some_and(|errors| {
        let is_list = |error: &str| error.contains("occurred:") && !error.contains("invalid token");
        errors.iter().any(|error| is_list(error))
    })
}

fn is_bad_request(answer: &VaultResponse, words: &str) -> bool {
    answer.status == StatusCode::BAD_REQUEST
        && json::errors(&answer.body)
            .is_some_and(|errors| errors.iter().any(|error| error.contains(words)))
}

/// Classifies a refusal of a transit engine.
pub(super) fn refusal(target: &Target, operation: TransitCall, answer: &VaultResponse) -> KmsError {
    let Target {
        address,
        mount,
        key,
    } = target;
    let endpoint = operation.endpoint();
    let reason = reason(answer);
    let error = |class, cause, remedy: String| {
        let what = format!("{target} refuses {endpoint} with key {key}: {reason}");
        KmsError::new(class, what, remedy).from_cause(cause)
    };
    match answer.status.as_u16() {
        400..=404 if !is_vaults(answer) => common_refusal(address, answer, &reason),
        400 if is_authentication_failed(answer) || reason.contains("invalid ciphertext") => error(
            Class::Corrupt,
            Cause::KeyRemade,
            "it did not wrap this key: if the transit key was recreated, restore the old one from a backup of \
             the server; otherwise restore keyspaces.json"
                .into(),
        ),
        400 if is_too_old(answer) => error(
            Class::Disabled,
            Cause::KeyVersionTooOld,
            format!(
                "lower min_decryption_version: bao write {mount}/keys/{key}/config min_decryption_version=N; before it is raised: keyway keyspace rewrap KEYSPACE --kms SAME"
            ),
        ),
        400 if reason.contains("soft-deleted") => error(
            Class::Disabled,
            Cause::KeyDisabled,
            format!("restore it: bao write -f {mount}/keys/{key}/soft-delete-restore"),
        ),
        // It wrapped the stored DEKs, so it existed.
        400 if is_key_missing(answer) && operation == TransitCall::Unwrap => error(
            Class::Disabled,
            Cause::KeyMissing,
            "restore the transit key from a backup of the server, or correct the setting key"
                .into(),
        ),
        400 if is_key_missing(answer) => error(
            Class::Misconfigured,
            Cause::KeyMissing,
            format!(
                "make it: bao write -f {mount}/keys/{key} derived=true; or correct the setting key"
            ),
        ),
        403 => error(
            Class::Denied,
            Cause::Policy,
            format!("give our token's policy the capability update on {mount}/{endpoint}/{key}"),
        ),
        404 => error(
            Class::Misconfigured,
            Cause::MountMissing,
            format!(
                "correct the settings mount and namespace, or: bao secrets enable -path={mount} transit"
            ),
        ),
        _ => common_refusal(address, answer, &reason),
    }
}

/// Classifies a refused login. `path` is that of the API.
pub(super) fn login_refusal(address: &str, path: &str, answer: &VaultResponse) -> KmsError {
    let reason = reason(answer);
    let what = format!("{address} refuses our login at {path}: {reason}");
    match answer.status.as_u16() {
        400..=404 if !is_vaults(answer) => common_refusal(address, answer, &reason),
        400 | 401 => KmsError::new(
            Class::Credential,
            what,
            "renew what the setting auth names: the token, the secret id, or the certificate",
        ),
        // It reveals nothing to unauthenticated clients: neither that a mount is missing, nor that a role is locked out.
        403 => KmsError::new(
            Class::Credential,
            what,
            "renew what the setting auth names, or correct its mount; a role is locked out for some minutes after \
             too many refusals",
        ),
        // The status is that of a failure of the server; the reason is not.
        500 if reason.contains("failed to verify client's certificate") => KmsError::new(
            Class::Credential,
            what,
            "renew our client certificate (auth.cert_file and key_file): the files are read again when they change; or \
             correct the clock of this machine or the server's",
        )
        .from_cause(Cause::ClientCertificate),
        404 => KmsError::new(
            Class::Misconfigured,
            what,
            "correct the settings auth.mount and namespace, or enable the auth method there",
        )
        .from_cause(Cause::MountMissing),
        _ => common_refusal(address, answer, &reason),
    }
}

/// Classifies refusals that mean the same everywhere.
fn common_refusal(address: &str, answer: &VaultResponse, reason: &str) -> KmsError {
    let status = answer.status.as_u16();
    let what = format!("{address} answers {status}: {reason}");
    let retry_after = answer.retry_after;
    match status {
        // Go's message on a TLS port: the setting is wrong.
        400 if answer.body.starts_with(b"Client sent an HTTP request to an HTTPS server") => {
            KmsError::new(
                Class::Misconfigured,
                format!("{address} answers {status}: it speaks TLS there"),
                "write https:// in the setting address",
            )
        }
        // From a proxy: another class than Vault's own.
        300..=499 if !is_vaults(answer) && !matches!(status, 307 | 308 | 429 | 472 | 473) => {
            not_vault(address, &format!("status {status}"))
        }
        429 => KmsError::new(
            Class::Throttled { retry_after },
            what,
            "wait; raise the server's rate limit quota if it comes back",
        ),
        503 if reason.contains("sealed") => KmsError::new(
            Class::Unavailable { retry_after },
            what,
            "unseal it: bao operator unseal",
        )
        .from_cause(Cause::Sealed),
        // 408: slow. 412, 472, 473: a replica that lags, or is on standby. 3xx: a standby that names the active one.
        300..=399 | 408 | 412 | 472 | 473 | 500..=599 => KmsError::new(
            Class::Unavailable { retry_after },
            what,
            "look at the server's health: bao status; behind several, give the address that leads to the active one",
        )
        .from_cause(match status {
            300..=399 | 412 | 472 | 473 => Cause::Standby,
            408 => Cause::TimedOut,
            _ => Cause::ServerError,
        }),
        _ if json::errors(&answer.body).is_none() => {
            not_vault(address, &format!("status {status}"))
        }
        _ => KmsError::new(
            Class::Misconfigured,
            what,
            "compare the settings of the vault provider with the server's",
        ),
    }
}

/// Creates the error for an answer that is not from Vault, but from a proxy, a firewall or a portal. It decides nothing.
pub(super) fn not_vault(address: &str, got: &str) -> KmsError {
    KmsError::new(
        Class::Unavailable { retry_after: None },
        format!("{address} does not answer as Vault or OpenBao does: {got}"),
        "check what stands between us and the server, and the setting address",
    )
    .from_cause(Cause::NotTheKms)
}

/// Returns the server's text, on one line and truncated. A body that is not Vault's is not repeated.
fn reason(answer: &VaultResponse) -> String {
    let Some(errors) = json::errors(&answer.body) else {
        return "no reason given".into();
    };
    let words = errors
        .iter()
        .flat_map(|error| error.split(|c: char| c.is_whitespace() || c.is_control()))
        // Go's lists of errors: `1 error occurred:\n\t* permission denied`.
        .filter(|word| !word.is_empty() && *word != "*");
    let text = words.collect::<Vec<_>>().join(" ");
    let text = text.strip_prefix("1 error occurred: ").unwrap_or(&text);
    if text.is_empty() {
        return "no reason given".into();
    }
    text.chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;

    fn answer(status: u16, body: &str) -> VaultResponse {
        VaultResponse {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: Some(Duration::from_secs(3)),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    fn target() -> Target {
        Target {
            address: "https://vault.example".into(),
            mount: "transit".into(),
            key: "dek".into(),
        }
    }

    const UNAVAILABLE: Class = Class::Unavailable { retry_after: None };

    /// Answers that no test can make a real server give.
    #[test]
    fn statuses_of_replicas_and_middlemen() {
        let retry_after = Some(Duration::from_secs(3));
        let unavailable = Class::Unavailable { retry_after };
        for (status, body, class) in [
            (307, "", unavailable),
            (
                412,
                r#"{"errors":["required index state not present"]}"#,
                unavailable,
            ),
            (472, "", unavailable),
            (473, "", unavailable),
            (500, r#"{"errors":["internal error"]}"#, unavailable),
            (502, "<html>", unavailable),
            (504, "", unavailable),
            (429, "", Class::Throttled { retry_after }),
            (
                400,
                "Client sent an HTTP request to an HTTPS server.",
                Class::Misconfigured,
            ),
            (400, r#"{"errors":["something new"]}"#, Class::Misconfigured),
            (405, r#"{"errors":[]}"#, Class::Misconfigured),
            // Texts of a proxy, a firewall or a portal decide nothing.
            (200, "<html>", UNAVAILABLE),
            (302, "<html>", UNAVAILABLE),
            (401, "<html>", UNAVAILABLE),
            (403, "<html>", UNAVAILABLE),
            (403, "", UNAVAILABLE),
            (403, r#"{"message":"Forbidden"}"#, UNAVAILABLE),
            (404, "<html>", UNAVAILABLE),
        ] {
            let answer = answer(status, body);
            let error = refusal(&target(), TransitCall::Unwrap, &answer);
            assert_eq!(error.class(), class, "{status}: {error}");
            let error = login_refusal("https://vault.example", "auth/approle/login", &answer);
            let is_named = answer.body.starts_with(b"{") && status == 400;
            let class = if is_named { Class::Credential } else { class };
            assert_eq!(error.class(), class, "{status}: {error}");
        }
    }

    #[test]
    fn the_servers_words_are_shown_on_one_short_line() {
        let listed = answer(
            403,
            r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
        );
        assert_eq!(reason(&listed), "permission denied");
        let long = format!(r#"{{"errors":["{}\u001b[31m"]}}"#, "é".repeat(500));
        assert_eq!(reason(&answer(400, &long)), "é".repeat(REASON_CHARS_MAX));
        for body in ["", "<html>", r#"{"errors":[]}"#, r#"{"errors":[" \n"]}"#] {
            assert_eq!(reason(&answer(400, body)), "no reason given");
        }
    }
}
