//! AWS KMS, through Amazon's SDK.
//!
//! ```text
//!  wrap      Encrypt          with the context as encryption context: AWS authenticates it, logs it in CloudTrail
//!  unwrap    Decrypt          and lets policies name it (kms:EncryptionContext:cluster)
//!  generate  GenerateDataKey
//!  unlock    DescribeKey      the key exists, is enabled, and is a symmetric encryption key
//! ```
//!
//! A wrapped key is the ciphertext that AWS returned, with the ARN of its key: see `envelope.rs`.
//!
//! **Wiping.** Plaintext returned by the SDK is moved into a [`SecretKey`] and wiped immediately. The SDK frees
//! intermediate copies (bodies in the SDK and in hyper, TLS records in rustls, base64 text) without wiping them, and no
//! setting changes that. keywayd's allocator wipes all freed memory, including these buffers; a program that uses this
//! crate without such an allocator leaves traces of DEKs on its heap. The same applies to credentials.
//!
//! **Global state.** The SDK installs no process-wide TLS provider (it passes ring's explicitly) and no logger. A profile
//! with `credential_process` makes tokio handle SIGCHLD.

mod classify;
mod connection;
mod envelope;
mod fetches;
mod key_name;
mod settings;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use aws_sdk_kms::Client;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyMetadata, KeySpec, KeyState, KeyUsageType};
use zeroize::Zeroizing;

use crate::provider::{
    Generated, Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret, Unlocked,
    WRAPPED_BYTES_MAX, Wrapped,
};
use crate::refusals::{Lockout, Refusals};
use crate::secret::SECRET_BYTES;
use crate::stamp::Stamp;
use crate::{Cause, Class, Context, Counters, KmsError, Purpose, SecretKey};

use classify::{Asked, classify};
use connection::{Connection, without_sdk_logging};
use envelope::Envelope;
use fetches::Fetches;
use key_name::KeyName;
pub use settings::AwsSettings;

/// AWS's limit for the ciphertext of Decrypt.
const CIPHERTEXT_BYTES_MAX: usize = 6144;

const _: () = assert!(CIPHERTEXT_BYTES_MAX <= WRAPPED_BYTES_MAX);

/// One key at AWS KMS.
#[derive(Debug)]
pub struct Aws {
    settings: AwsSettings,
    key: KeyName,
    fetches: Fetches,
    refusals: Mutex<Refusals>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` while locked.
    connection: Option<Arc<Connection>>,
    /// The ARN in the first answer since the last unlock. Later answers must have the same: an alias that now points at
    /// another key would otherwise wrap new DEKs under one key while the stored ones need the other.
    arn: Option<String>,
    /// Calls of `lock()` so far: an operation that began before the latest one must not take effect after it.
    lock_count: u64,
}

/// A call in progress.
struct Call {
    connection: Arc<Connection>,
    lock_count: u64,
    /// State of the files with the credentials and the CAs.
    stamp: Stamp,
}

impl Aws {
    /// Checks the settings without a network call: the first call determines region, credentials and endpoint. The
    /// provider is unlocked.
    ///
    /// # Errors
    /// [`Class::Misconfigured`] for settings that cannot work.
    pub fn open(settings: AwsSettings) -> Result<Self, KmsError> {
        let key = settings.check()?;
        Ok(Self {
            key,
            fetches: Fetches::default(),
            refusals: Mutex::new(Refusals::new(Lockout::Never)),
            state: Mutex::new(State {
                connection: Some(Arc::new(Connection::new(settings.files_stamp()))),
                arn: None,
                lock_count: 0,
            }),
            settings,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment, so a panic elsewhere leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        // No change of it can panic half way.
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an error if the credentials in these files were refused a moment ago. One refusal counts for all keyspaces:
    /// AWS limits the rate of those who repeat it.
    fn check_not_barred(&self, stamp: &Stamp) -> Result<(), KmsError> {
        match self.refusals().bar(stamp, Instant::now()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn begin(&self) -> Result<Call, KmsError> {
        let stamp = self.settings.files_stamp();
        let mut state = self.state();
        let mut connection = state.connection.clone().ok_or_else(locked)?;
        self.check_not_barred(&stamp)?;
        // Other credentials may have other rights, and the SDK would not read them for a quarter of an hour.
        if !connection.is_of(&stamp) {
            connection = Arc::new(Connection::new(stamp.clone()));
            state.connection = Some(Arc::clone(&connection));
        }
        Ok(Call {
            connection,
            lock_count: state.lock_count,
            stamp,
        })
    }

    async fn client<'a>(&self, call: &'a Call) -> Result<&'a Client, KmsError> {
        let (settings, key) = (&self.settings, &self.key);
        call.connection.client(settings, key, &self.fetches).await
    }

    /// Processes an answer: classifies a failure, and drops an answer that arrives after a lock.
    fn finish<T, E>(
        &self,
        call: &Call,
        operation: &'static str,
        answer: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T, KmsError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut state = self.state();
        if state.lock_count != call.lock_count {
            return Err(locked());
        }
        if answer.is_ok() {
            self.refusals().clear();
        }
        answer.map_err(|error| {
            let asked = Asked {
                operation,
                key: self.key.as_str(),
                now: SystemTime::now(),
            };
            let failure = classify(asked, &error);
            let is_current = state
                .connection
                .as_ref()
                .is_some_and(|connection| Arc::ptr_eq(connection, &call.connection));
            if failure.blames_credentials && is_current {
                let files = self.settings.files_stamp();
                state.connection = Some(Arc::new(Connection::new(files)));
            }
            if failure.error.class() == Class::Credential {
                let stamp = call.stamp.clone();
                self.refusals().note(&failure.error, stamp, Instant::now());
            }
            failure.error
        })
    }

    /// Checks that an answer is from the requested key.
    fn check_key(&self, operation: &str, arn: Option<&str>) -> Result<String, KmsError> {
        let arn = arn.unwrap_or_default();
        if !self.key.can_be(arn) {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "AWS KMS {operation} of key {} returned an answer from another key",
                    self.key.as_str()
                ),
                "check that endpoint_url is AWS KMS, and name the key by its ARN",
            ));
        }
        let mut state = self.state();
        let first = state.arn.get_or_insert_with(|| arn.to_owned());
        if first == arn {
            return Ok(arn.to_owned());
        }
        Err(KmsError::new(
            Class::Misconfigured,
            format!("{} is {arn} now, and was {first} before", self.key.as_str()),
            "point the alias back at the key that wrapped this data, or lock and unlock to take the new one",
        ))
    }

    async fn encrypt(&self, context: &Context, dek: &SecretKey) -> Result<Wrapped, KmsError> {
        const NAME: &str = "Encrypt";
        let call = self.begin()?;
        let mut request = self
            .client(&call)
            .await?
            .encrypt()
            .key_id(self.key.as_str());
        for (name, value) in encryption_context(context) {
            request = request.encryption_context(name, value);
        }
        let request = request.plaintext(Blob::new(dek.expose().as_slice()));
        let answer = self.finish(&call, NAME, without_sdk_logging(request.send()).await)?;
        let arn = self.check_key(NAME, answer.key_id())?;
        wrapped(NAME, &arn, answer.ciphertext_blob)
    }

    async fn decrypt(&self, context: &Context, wrapped: &[u8]) -> Result<SecretKey, KmsError> {
        const NAME: &str = "Decrypt";
        let call = self.begin()?;
        let envelope = Envelope::parse(wrapped)
            .ok_or_else(|| not_ours(context, format!("has {} bytes", wrapped.len())))?;
        if let Some(arn) = envelope.arn.filter(|arn| !self.key.can_be(arn)) {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "the wrapped key of {context} belongs to {arn}, which is not {}",
                    self.key.as_str()
                ),
                "set key_id to that key, or to an alias in its account and region",
            )
            .from_cause(Cause::KeyRemade));
        }
        // The key that wrapped it, whatever an alias points at now.
        let mut request = self
            .client(&call)
            .await?
            .decrypt()
            .key_id(envelope.arn.unwrap_or(self.key.as_str()));
        for (name, value) in encryption_context(context) {
            request = request.encryption_context(name, value);
        }
        let request = request.ciphertext_blob(Blob::new(envelope.ciphertext));
        let mut answer = self.finish(&call, NAME, without_sdk_logging(request.send()).await)?;
        let plaintext = plaintext(NAME, answer.plaintext.take())?;
        match envelope.arn {
            Some(arn) if answer.key_id() == Some(arn) => {}
            Some(_) => return Err(lacks(NAME, "the ARN of the requested key")),
            None => {
                self.check_key(NAME, answer.key_id())?;
            }
        }
        // AWS has authenticated it, so only Keyway, or a client with the same rights, can have stored another length.
        secret_key(&plaintext)
            .ok_or_else(|| not_ours(context, format!("holds {} bytes", plaintext.len())))
    }

    async fn generate_data_key(&self, context: &Context) -> Result<Generated, KmsError> {
        const NAME: &str = "GenerateDataKey";
        let call = self.begin()?;
        let mut request = self
            .client(&call)
            .await?
            .generate_data_key()
            .key_id(self.key.as_str())
            .key_spec(DataKeySpec::Aes256);
        for (name, value) in encryption_context(context) {
            request = request.encryption_context(name, value);
        }
        let mut answer = self.finish(&call, NAME, without_sdk_logging(request.send()).await)?;
        let plaintext = plaintext(NAME, answer.plaintext.take())?;
        let arn = self.check_key(NAME, answer.key_id())?;
        let dek = secret_key(&plaintext).ok_or_else(|| lacks(NAME, "a key of 32 bytes"))?;
        let wrapped = wrapped(NAME, &arn, answer.ciphertext_blob)?;
        Ok(Generated { dek, wrapped })
    }

    async fn describe_and_unlock(&self) -> Result<Unlocked, KmsError> {
        const NAME: &str = "DescribeKey";
        // A new connection rereads the credentials, which an operator who unlocks after a denial expects.
        let stamp = self.settings.files_stamp();
        let call = Call {
            connection: Arc::new(Connection::new(stamp.clone())),
            lock_count: self.state().lock_count,
            stamp,
        };
        self.refusals().hurry(Instant::now());
        self.check_not_barred(&call.stamp)?;
        let request = self
            .client(&call)
            .await?
            .describe_key()
            .key_id(self.key.as_str());
        let answer = self.finish(&call, NAME, without_sdk_logging(request.send()).await)?;
        let key = answer.key_metadata.ok_or_else(|| lacks(NAME, "the key"))?;
        self.check_usable(&key)?;
        let arn = key.arn.filter(|arn| self.key.can_be(arn));
        let arn = arn.ok_or_else(|| lacks(NAME, "the ARN of the requested key"))?;
        let mut state = self.state();
        if state.lock_count != call.lock_count {
            return Err(locked());
        }
        state.connection = Some(call.connection);
        state.arn = Some(arn);
        Ok(Unlocked::Open)
    }

    fn check_usable(&self, key: &KeyMetadata) -> Result<(), KmsError> {
        let (class, what, remedy) = match (&key.key_state, &key.key_usage, &key.key_spec) {
            (
                Some(KeyState::Enabled),
                None | Some(KeyUsageType::EncryptDecrypt),
                None | Some(KeySpec::SymmetricDefault),
            ) => {
                return Ok(());
            }
            (Some(KeyState::Enabled), usage, spec) => (
                Class::Misconfigured,
                format!(
                    "is a {} key for {}",
                    spec.as_ref().map_or("SYMMETRIC_DEFAULT", KeySpec::as_str),
                    usage
                        .as_ref()
                        .map_or("ENCRYPT_DECRYPT", KeyUsageType::as_str)
                ),
                "name a SYMMETRIC_DEFAULT key for ENCRYPT_DECRYPT in key_id",
            ),
            (Some(KeyState::Creating | KeyState::Updating | KeyState::Unavailable), _, _) => (
                Class::Unavailable { retry_after: None },
                "is not available yet".to_owned(),
                "wait until AWS KMS shows it as enabled; reconnect its key store, if it has one of its own",
            ),
            _ => (
                Class::Disabled,
                format!(
                    "is {}",
                    key.key_state
                        .as_ref()
                        .map_or("in no known state", KeyState::as_str)
                ),
                "enable the key, or cancel its deletion, in AWS KMS",
            ),
        };
        Err(KmsError::new(
            class,
            format!("key {} {what}", self.key.as_str()),
            remedy,
        ))
    }
}

impl Provider for Aws {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn state(&self) -> ProviderState {
        if self.state().connection.is_some() {
            ProviderState::Unlocked
        } else {
            ProviderState::Locked
        }
    }

    fn is_unprotected(&self) -> bool {
        false
    }

    fn unlock_need(&self) -> UnlockNeed {
        UnlockNeed::Nothing
    }

    fn wrap<'a>(&'a self, context: &'a Context, dek: &'a SecretKey) -> ProviderFuture<'a, Wrapped> {
        Box::pin(self.encrypt(context, dek))
    }

    fn unwrap<'a>(
        &'a self,
        context: &'a Context,
        wrapped: &'a [u8],
    ) -> ProviderFuture<'a, SecretKey> {
        Box::pin(self.decrypt(context, wrapped))
    }

    fn generate<'a>(&'a self, context: &'a Context) -> Option<ProviderFuture<'a, Generated>> {
        Some(Box::pin(self.generate_data_key(context)))
    }

    fn unlock(&self, secret: UnlockSecret) -> ProviderFuture<'_, Unlocked> {
        Box::pin(async move {
            match secret {
                UnlockSecret::Nothing => self.describe_and_unlock().await,
                other => Err(KmsError::new(
                    Class::Misconfigured,
                    format!(
                        "AWS KMS takes no secret to unlock, and was given {}",
                        other.what()
                    ),
                    "unlock it without one; its credentials come from the AWS configuration",
                )),
            }
        })
    }

    fn hurry(&self) {
        self.refusals().hurry(Instant::now());
    }

    fn own_calls(&self) -> Counters {
        self.fetches.calls()
    }

    fn own_calls_per_hour(&self) -> f64 {
        self.fetches.per_hour()
    }

    fn lock(&self) {
        let mut state = self.state();
        state.lock_count += 1;
        state.connection = None;
        state.arn = None;
    }
}

/// Returns the encryption context as text. AWS writes it to CloudTrail and policies can refer to it, so it is readable;
/// nothing in it is secret.
fn encryption_context(context: &Context) -> [(&'static str, String); 4] {
    let purpose = match context.purpose {
        Purpose::DataKey => "data-key",
        Purpose::CatalogueKey => "catalogue-key",
        Purpose::SealedDataKey => "sealed-data-key",
    };
    [
        ("cluster", crate::hex::encode(&context.cluster)),
        ("keyspace", context.keyspace.to_string()),
        ("generation", context.generation.to_string()),
        ("purpose", purpose.to_owned()),
    ]
}

/// Moves plaintext from an answer into memory that is wiped.
fn plaintext(operation: &str, blob: Option<Blob>) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let blob = blob.ok_or_else(|| lacks(operation, "the plaintext"))?;
    Ok(Zeroizing::new(blob.into_inner()))
}

fn secret_key(plaintext: &[u8]) -> Option<SecretKey> {
    SecretKey::try_fill(|bytes: &mut [u8; SECRET_BYTES]| {
        let source: &[u8; SECRET_BYTES] = plaintext.try_into()?;
        bytes.copy_from_slice(source);
        Ok::<(), std::array::TryFromSliceError>(())
    })
    .ok()
}

fn wrapped(operation: &str, arn: &str, blob: Option<Blob>) -> Result<Wrapped, KmsError> {
    let bytes = blob.map(Blob::into_inner).unwrap_or_default();
    if (1..=CIPHERTEXT_BYTES_MAX).contains(&bytes.len())
        && let Some(wrapped) = Envelope::seal(arn, &bytes)
    {
        return Ok(wrapped);
    }
    Err(lacks(operation, "a ciphertext that Decrypt would take"))
}

fn lacks(operation: &str, what: &str) -> KmsError {
    KmsError::new(
        Class::Unavailable { retry_after: None },
        format!("the answer of AWS KMS to {operation} lacks {what}"),
        "check that endpoint_url is AWS KMS",
    )
}

fn not_ours(context: &Context, what: String) -> KmsError {
    KmsError::new(
        Class::Corrupt,
        format!("the wrapped key of {context} {what}, which AWS KMS never returns"),
        "check which KMS the keyspace uses; restore the wrapped key from a backup",
    )
}

fn locked() -> KmsError {
    KmsError::new(
        Class::Locked,
        "AWS KMS is locked on this node",
        "unlock it: keyway kms unlock NAME",
    )
}
