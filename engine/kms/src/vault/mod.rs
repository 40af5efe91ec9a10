//! The transit engine of HashiCorp Vault and OpenBao: the KEK never leaves the server, which wraps and unwraps.
//!
//! ```text
//!  Vault ─▶ Auth: one login for all, renewed at half of its life ─▶ Client ─▶ server
//!    │                                                              ▲
//!    └── encrypt, decrypt, datakey ─────────────────────────────────┘
//! ```
//!
//! **Binding.** The transit key must be *derived*: the server then derives the AES key from the KEK and the [`Context`],
//! sent as `context`, so that another context fails there. All versions of Vault and OpenBao support that for encrypt,
//! decrypt and datakey. A key that is not derived silently ignores a context. So the first call after an open or an
//! unlock also requests a decryption *without* a context, which a derived key refuses. This needs no permission to read
//! the key, and creates nothing.
//!
//! **Permissions.** `update` on `MOUNT/encrypt/KEY`, `MOUNT/decrypt/KEY` and `MOUNT/datakey/plaintext/KEY`. Never
//! `create` on encrypt: with it the server creates a missing key, and a deleted KEK would be replaced by another.
//!
//! **Secrets in memory.** Tokens, request bodies and answers are in buffers that are wiped. The buffers of hyper and
//! rustls are not: they contain the request's head with the token, and the answer, until the connection is used again.

mod auth;
mod client;
mod errors;
mod json;
mod pinned;
mod secrets;
mod session;
mod settings;
mod tls;
mod tokens;
mod validity;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use crate::provider::{
    Generated, Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret, Unlocked,
    WRAPPED_BYTES_MAX, Wrapped,
};
use crate::secret::SECRET_BYTES;
use crate::{Cause, Class, Context, Counters, KmsError, Purpose, SecretKey};

use auth::Auth;
use client::{Client, VaultResponse};
use errors::{Target, TransitCall};
use json::{Ciphertext, Plaintext};
use session::Session;
pub use settings::{VaultAuth, VaultSettings};

/// The prefix of a ciphertext, before its key version.
const CIPHERTEXT_PREFIX: &str = "vault:v";
/// A ciphertext that no key created: 60 zero bytes, the length of a wrapped DEK.
const NO_CIPHERTEXT: &str =
    "vault:v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Period of checks for a newer version of the key.
const VERSION_PERIOD: Duration = Duration::from_secs(3600);
/// base64 of a secret.
const SECRET_BASE64_BYTES: usize = SECRET_BYTES.div_ceil(3) * 4;

/// A KEK in the transit engine of a Vault or OpenBao server. It is unlocked initially; a lock wipes the token here, which
/// remains valid at the server until it expires.
pub struct TransitProvider {
    client: Client,
    auth: Auth,
    target: Target,
    /// The key was seen to refuse a ciphertext without its context.
    is_bound: AtomicBool,
    /// Latest version of the key, as far as wrapped keys show; 0 if none was seen.
    newest_version: AtomicU32,
    version_looked_at: Mutex<Option<Instant>>,
}

impl TransitProvider {
    /// Checks the settings and the files they name. It makes no call, so it succeeds while the server is unreachable.
    /// Blocks for a few file operations.
    ///
    /// # Errors
    /// [`Class::Misconfigured`] for settings that cannot work and for files that are missing, damaged or open to
    /// others.
    pub fn open(settings: VaultSettings) -> Result<Self, KmsError> {
        settings.check()?;
        let client = Client::new(&settings)?;
        let target = Target {
            address: client.address().to_owned(),
            mount: settings.mount,
            key: settings.key,
        };
        Ok(Self {
            auth: Auth::open(settings.auth)?,
            client,
            target,
            is_bound: AtomicBool::new(false),
            newest_version: AtomicU32::new(0),
            version_looked_at: Mutex::default(),
        })
    }

    async fn wrap_dek(&self, context: &Context, dek: &SecretKey) -> Result<Wrapped, KmsError> {
        let plaintext = encode_secret(dek);
        let context = context_field(context);
        let body = json::object(&[
            ("plaintext", plaintext.as_slice()),
            ("context", context.as_bytes()),
        ]);
        let answer = self.call(TransitCall::Wrap, body).await?;
        if answer.status == StatusCode::FORBIDDEN {
            // Without `create`, the answer for a missing key is that it is forbidden. Decrypt distinguishes the two.
            let check = self
                .call(TransitCall::Check, without_context(NO_CIPHERTEXT))
                .await?;
            if errors::is_key_missing(&check) {
                return Err(errors::refusal(&self.target, TransitCall::Check, &check));
            }
        }
        let answer = self.accept(TransitCall::Wrap, &answer)?;
        let wrapped = self.wrapped(json::data::<Ciphertext>(answer).map(|data| data.ciphertext))?;
        self.prove_binding(&wrapped).await?;
        Ok(Wrapped(wrapped.into_bytes()))
    }

    async fn unwrap_dek(&self, context: &Context, wrapped: &[u8]) -> Result<SecretKey, KmsError> {
        let wrapped = ciphertext(wrapped).ok_or_else(|| {
            KmsError::new(
                Class::Corrupt,
                format!(
                    "the wrapped key of {context} was not made by Vault ({} bytes)",
                    wrapped.len()
                ),
                "check which KMS the keyspace uses; restore the wrapped key from a backup",
            )
        })?;
        self.prove_binding(wrapped).await?;
        let context = context_field(context);
        let body = json::object(&[
            ("ciphertext", wrapped.as_bytes()),
            ("context", context.as_bytes()),
        ]);
        let answer = self.call(TransitCall::Unwrap, body).await?;
        let answer = self.accept(TransitCall::Unwrap, &answer)?;
        self.secret(json::data::<Plaintext>(answer).map(|data| data.plaintext))
    }

    async fn generate_dek(&self, context: &Context) -> Result<Generated, KmsError> {
        let context = context_field(context);
        let body = json::object(&[("context", context.as_bytes())]);
        let answer = self.call(TransitCall::Generate, body).await?;
        let answer = self.accept(TransitCall::Generate, &answer)?;
        let dek = self.secret(json::data::<Plaintext>(answer).map(|data| data.plaintext))?;
        let wrapped = self.wrapped(json::data::<Ciphertext>(answer).map(|data| data.ciphertext))?;
        self.prove_binding(&wrapped).await?;
        Ok(Generated {
            dek,
            wrapped: Wrapped(wrapped.into_bytes()),
        })
    }

    async fn log_in_and_check(&self) -> Result<Unlocked, KmsError> {
        let unlocking = self.auth.begin_unlock(&self.client, &self.target).await?;
        let answer = self
            .send(
                TransitCall::Check,
                unlocking.session(),
                without_context(NO_CIPHERTEXT),
            )
            .await?;
        // A key whose version 1 is retired refuses before it checks the context; the first use will check it.
        if errors::is_too_old(&answer) {
            self.is_bound.store(false, Ordering::Relaxed);
        } else {
            self.expect_context_missed(TransitCall::Check, &answer)?;
        }
        unlocking.finish()?;
        Ok(Unlocked::Open)
    }

    /// Wraps a value periodically, and discards it: the policy allows no other way to read the key's latest version. Only
    /// while there is a login anyway.
    async fn look_for_newest_version(&self) {
        let is_due = {
            let mut looked_at = self
                .version_looked_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let is_due = looked_at.is_none_or(|at| at.elapsed() >= VERSION_PERIOD);
            let is_due = is_due && self.auth.has_session();
            if is_due {
                *looked_at = Some(Instant::now());
            }
            is_due
        };
        if !is_due {
            return;
        }
        // No keyspace has id 0.
        let context = Context {
            cluster: [0; 16],
            keyspace: 0,
            generation: 0,
            purpose: Purpose::DataKey,
        };
        if let Ok(probe) = SecretKey::generate(&SystemRandom::new()) {
            let _ = self.wrap_dek(&context, &probe).await;
        }
    }

    /// Verifies, once, that the key does not open `ciphertext` without its context.
    async fn prove_binding(&self, ciphertext: &str) -> Result<(), KmsError> {
        if self.is_bound.load(Ordering::Relaxed) {
            return Ok(());
        }
        let operation = TransitCall::Unwrap;
        let answer = self.call(operation, without_context(ciphertext)).await?;
        self.expect_context_missed(operation, &answer)
    }

    fn expect_context_missed(
        &self,
        operation: TransitCall,
        answer: &VaultResponse,
    ) -> Result<(), KmsError> {
        if errors::is_missing_context(answer) {
            self.is_bound.store(true, Ordering::Relaxed);
            return Ok(());
        }
        if answer.status == StatusCode::OK || errors::is_authentication_failed(answer) {
            let Target { mount, key, .. } = &self.target;
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "the key {key} of {} ignores the context: it is not derived",
                    self.target
                ),
                format!("make another key for Keyway: bao write -f {mount}/keys/NAME derived=true"),
            )
            .from_cause(Cause::KeyUnsuitable));
        }
        Err(errors::refusal(&self.target, operation, answer))
    }

    /// Calls with the token. An invalid token is replaced, and a denial is checked with a new login, once each.
    async fn call(&self, operation: TransitCall, body: Bytes) -> Result<VaultResponse, KmsError> {
        let (client, target) = (&self.client, &self.target);
        let session = self.auth.session(client, target).await?;
        let answer = self.send(operation, &session, body.clone()).await?;
        if !is_refused(&answer) {
            return Ok(answer);
        }
        let is_known = self.auth.is_token_known(client, &session, &answer).await?;
        let session = match is_known {
            true => match self.auth.after_denial(client, target, &session).await? {
                Some(session) => session,
                None => return Ok(answer),
            },
            false => self.auth.replace(client, target, &session).await?,
        };
        let answer = self.send(operation, &session, body).await?;
        if is_refused(&answer) {
            if !self.auth.is_token_known(client, &session, &answer).await? {
                return Err(tokens::token_ended(client.address()));
            }
            self.auth.note_denied(&session);
        }
        Ok(answer)
    }

    async fn send(
        &self,
        operation: TransitCall,
        session: &Session,
        body: Bytes,
    ) -> Result<VaultResponse, KmsError> {
        let Target { mount, key, .. } = &self.target;
        let path = format!("{mount}/{}/{key}", operation.endpoint());
        self.client.post(&path, Some(session.token()), body).await
    }

    fn accept<'a>(
        &self,
        operation: TransitCall,
        answer: &'a VaultResponse,
    ) -> Result<&'a [u8], KmsError> {
        if answer.status == StatusCode::OK {
            Ok(&answer.body)
        } else {
            Err(errors::refusal(&self.target, operation, answer))
        }
    }

    fn wrapped(&self, text: Option<&str>) -> Result<String, KmsError> {
        let wrapped = text
            .and_then(|text| ciphertext(text.as_bytes()))
            .ok_or_else(|| {
                errors::not_vault(&self.target.address, "no ciphertext of a transit key")
            })?;
        if let Some(version) = version(wrapped) {
            self.newest_version.fetch_max(version, Ordering::Relaxed);
        }
        Ok(wrapped.to_owned())
    }

    fn secret(&self, text: Option<&str>) -> Result<SecretKey, KmsError> {
        text.and_then(decode_secret)
            .ok_or_else(|| errors::not_vault(&self.target.address, "no plaintext of 32 bytes"))
    }
}

impl fmt::Debug for TransitProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("target", &self.target)
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

impl Provider for TransitProvider {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn state(&self) -> ProviderState {
        self.auth.state()
    }

    fn is_unprotected(&self) -> bool {
        false
    }

    fn unlock_need(&self) -> UnlockNeed {
        UnlockNeed::Nothing
    }

    fn wrap<'a>(&'a self, context: &'a Context, dek: &'a SecretKey) -> ProviderFuture<'a, Wrapped> {
        Box::pin(self.wrap_dek(context, dek))
    }

    fn unwrap<'a>(
        &'a self,
        context: &'a Context,
        wrapped: &'a [u8],
    ) -> ProviderFuture<'a, SecretKey> {
        Box::pin(self.unwrap_dek(context, wrapped))
    }

    fn generate<'a>(&'a self, context: &'a Context) -> Option<ProviderFuture<'a, Generated>> {
        Some(Box::pin(self.generate_dek(context)))
    }

    /// Logs in again, and verifies that the key exists, may be used to decrypt, and is bound to contexts.
    fn unlock(&self, secret: UnlockSecret) -> ProviderFuture<'_, Unlocked> {
        Box::pin(async move {
            match secret {
                UnlockSecret::Nothing => self.log_in_and_check().await,
                other => Err(KmsError::new(
                    Class::Misconfigured,
                    format!("the vault provider was given {} to unlock it", other.what()),
                    "give nothing: it logs in as its settings say",
                )),
            }
        })
    }

    /// Wipes the token, and closes the connections whose buffers contained it. The server is not notified: the token
    /// remains valid there until it expires.
    fn lock(&self) {
        self.auth.lock();
        self.client.drop_connections();
        self.is_bound.store(false, Ordering::Relaxed);
    }

    fn tend(&self) -> Option<ProviderFuture<'_, Duration>> {
        Some(Box::pin(async {
            let wait = self.auth.tend(&self.client, &self.target).await?;
            self.look_for_newest_version().await;
            Ok(wait)
        }))
    }

    fn hurry(&self) {
        self.auth.hurry();
    }

    fn own_calls(&self) -> Counters {
        self.auth.calls()
    }

    fn own_calls_per_hour(&self) -> f64 {
        self.auth.calls_per_hour()
    }

    fn key_version(&self, wrapped: &[u8]) -> Option<u32> {
        version(ciphertext(wrapped)?)
    }

    fn newest_key_version(&self) -> Option<u32> {
        match self.newest_version.load(Ordering::Relaxed) {
            0 => None,
            newest => Some(newest),
        }
    }
}

/// Returns `true` for a 403 of the server itself.
fn is_refused(answer: &VaultResponse) -> bool {
    answer.status == StatusCode::FORBIDDEN && errors::is_vaults(answer)
}

/// Returns the text of a transit ciphertext, `vault:vVERSION:BASE64`, if `bytes` are one.
fn ciphertext(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (version, sealed) = text.strip_prefix(CIPHERTEXT_PREFIX)?.split_once(':')?;
    let is_version = !version.starts_with('0') && version.bytes().all(|byte| byte.is_ascii_digit());
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let is_whole = version.parse::<u32>().is_ok() && !sealed.is_empty();
    (is_version && is_whole && sealed.bytes().all(is_base64) && text.len() <= WRAPPED_BYTES_MAX)
        .then_some(text)
}

/// Returns the key version in a ciphertext.
fn version(ciphertext: &str) -> Option<u32> {
    let (version, _) = ciphertext
        .strip_prefix(CIPHERTEXT_PREFIX)?
        .split_once(':')?;
    version.parse().ok()
}

fn context_field(context: &Context) -> String {
    STANDARD.encode(context.to_bytes())
}

fn without_context(ciphertext: &str) -> Bytes {
    json::object(&[("ciphertext", ciphertext.as_bytes())])
}

fn encode_secret(dek: &SecretKey) -> Zeroizing<[u8; SECRET_BASE64_BYTES]> {
    let mut text = Zeroizing::new([0; SECRET_BASE64_BYTES]);
    let written = STANDARD.encode_slice(dek.expose(), text.as_mut_slice());
    debug_assert_eq!(written, Ok(SECRET_BASE64_BYTES));
    text
}

fn decode_secret(text: &str) -> Option<SecretKey> {
    // The decoder needs space for whole groups of three bytes.
    let mut bytes = Zeroizing::new([0; SECRET_BASE64_BYTES / 4 * 3]);
    let len = STANDARD.decode_slice(text, bytes.as_mut_slice()).ok()?;
    let secret = <&[u8; SECRET_BYTES]>::try_from(&bytes[..len]).ok()?;
    SecretKey::try_fill(|filled| {
        filled.copy_from_slice(secret);
        Ok::<(), std::convert::Infallible>(())
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_of_a_ciphertext_is_taken() {
        for good in ["vault:v1:AAAA", "vault:v4294967295:a+/=", NO_CIPHERTEXT] {
            assert_eq!(ciphertext(good.as_bytes()), Some(good));
        }
        let long = format!("vault:v1:{}", "A".repeat(WRAPPED_BYTES_MAX));
        for bad in [
            "",
            "vault:v1",
            "vault:v1:",
            "vault:v0:AAAA",
            "vault:v:AAAA",
            "vault:v+1:AAAA",
            "vault:v4294967296:AAAA",
            "vault:v1:AA\"A",
            "other:v1:AAAA",
            &long,
        ] {
            assert_eq!(ciphertext(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(ciphertext(b"vault:v1:\xff"), None);
    }

    #[test]
    fn a_secret_survives_its_text_and_nothing_else_is_a_secret() {
        let secret = SecretKey::take(&mut [0xa7; 32]);
        let text = encode_secret(&secret);
        let text = std::str::from_utf8(text.as_slice()).unwrap();
        assert!(decode_secret(text).unwrap().is_same(&secret));
        for bytes in [0, 16, 31, 33, 34, 64] {
            assert!(
                decode_secret(&STANDARD.encode(vec![7; bytes])).is_none(),
                "{bytes}"
            );
        }
        assert!(decode_secret("not base64").is_none());
    }

    #[test]
    fn the_ciphertext_of_no_key_has_the_length_of_a_wrapped_secret() {
        let sealed = NO_CIPHERTEXT.rsplit(':').next().unwrap();
        // Nonce, secret and tag.
        assert_eq!(
            STANDARD.decode(sealed).unwrap().len(),
            12 + SECRET_BYTES + 16
        );
    }
}
