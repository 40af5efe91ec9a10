//! Steps on the token: finding it and its key, sealing and opening. Each takes one or a few calls of the module.

use cryptoki::context::Pkcs11 as Module;
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::Ulong;
use zeroize::Zeroizing;

use super::Pkcs11Settings;
use super::classify::{describe, name};
use super::format::{IV_BYTES, SEALED_BYTES, Sealed, TAG_BITS};
use crate::{Cause, Class, KmsError, SECRET_BYTES, SecretKey};

/// Length of the key-encryption key, in bytes: a DEK has as many.
const KEK_BYTES: usize = 32;
/// Most keys of one label that are read: two are already too many.
const KEYS_SEEN_MAX: usize = 2;

/// Returns the slot of the token that the settings name, by serial number or by label.
pub(super) fn find(
    module: &Module,
    settings: &Pkcs11Settings,
) -> Result<(Slot, TokenInfo), KmsError> {
    let slots = module
        .get_slots_with_token()
        .map_err(|error| describe(&error, settings))?;
    let mut last_error = None;
    let mut tokens = Vec::new();
    for slot in slots {
        match module.get_token_info(slot) {
            Ok(info) => tokens.push((slot, info)),
            // The failing one may be another token.
            Err(error) => last_error = Some(error),
        }
    }
    let wanted = settings.token.as_str();
    let by_serial = |(_, info): &(Slot, TokenInfo)| info.serial_number() == wanted;
    let by_label = |(_, info): &(Slot, TokenInfo)| info.label() == wanted;
    let is_wanted = |token: &(Slot, TokenInfo)| {
        if tokens.iter().any(by_serial) {
            by_serial(token)
        } else {
            by_label(token)
        }
    };
    let found: Vec<_> = tokens.iter().filter(|token| is_wanted(token)).collect();
    match found.as_slice() {
        [(slot, info)] => Ok((*slot, info.clone())),
        [] => Err(absent(settings, last_error.as_ref())),
        several => {
            let serials: Vec<_> = several
                .iter()
                .map(|(_, info)| info.serial_number())
                .collect();
            Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "{} tokens have the label {wanted}: serial numbers {}",
                    several.len(),
                    serials.join(", ")
                ),
                "give the serial number as the token",
            ))
        }
    }
}

fn absent(settings: &Pkcs11Settings, error: Option<&Error>) -> KmsError {
    let also = error.map_or_else(String::new, |error| format!(" ({})", name(error)));
    KmsError::new(
        Class::Unavailable { retry_after: None },
        format!(
            "the PKCS#11 module {} shows no token {}{also}",
            settings.module.display(),
            settings.token
        ),
        "connect the token, or correct its label; a token that comes back is found without a restart, and needs its PIN \
         again unless there is a pin_file",
    )
    .from_cause(Cause::TokenAbsent)
}

/// Returns the key named in the settings, if it may be used. The session must be logged in, since a private key is hidden
/// before.
pub(super) fn find_key(
    session: &Session,
    settings: &Pkcs11Settings,
) -> Result<ObjectHandle, KmsError> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Label(settings.key.as_bytes().to_vec()),
    ];
    let found: Result<Vec<_>, _> = session
        .iter_objects(&template)
        .and_then(|keys| keys.take(KEYS_SEEN_MAX).collect());
    let found = found.map_err(|error| describe(&error, settings))?;
    let (key, token) = (&settings.key, &settings.token);
    match found.as_slice() {
        [handle] => check_key(session, *handle, settings).map(|()| *handle),
        [] => Err(KmsError::new(
            Class::Misconfigured,
            format!("token {token} has no AES key with the label {key}"),
            "make the key on the token, restore it from the token's backup, or correct the label",
        )
        .from_cause(Cause::KeyMissing)),
        _ => Err(KmsError::new(
            Class::Misconfigured,
            format!("token {token} has several AES keys with the label {key}"),
            "give the key a label of its own",
        )),
    }
}

fn check_key(
    session: &Session,
    handle: ObjectHandle,
    settings: &Pkcs11Settings,
) -> Result<(), KmsError> {
    let wanted = [
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::ValueLen,
        AttributeType::Private,
        AttributeType::Sensitive,
        AttributeType::Extractable,
    ];
    let attributes = session
        .get_attributes(handle, &wanted)
        .map_err(|error| describe(&error, settings))?;
    let (key, token) = (&settings.key, &settings.token);
    for attribute in attributes {
        match attribute {
            // A key that only encrypts would wrap DEKs that cannot be unwrapped.
            Attribute::Encrypt(false) | Attribute::Decrypt(false) => {
                return Err(KmsError::new(
                    Class::Disabled,
                    format!("key {key} of token {token} may not both encrypt and decrypt"),
                    format!("set CKA_ENCRYPT and CKA_DECRYPT of key {key} on the token"),
                ));
            }
            Attribute::ValueLen(len) if usize::from(len) != KEK_BYTES => {
                return Err(KmsError::new(
                    Class::Misconfigured,
                    format!("key {key} of token {token} has {len} bytes"),
                    "use an AES-256 key, which has 32",
                ));
            }
            // Any process with access to the module could use or read the key: the PIN would protect nothing.
            Attribute::Private(false) | Attribute::Sensitive(false) => {
                return Err(KmsError::new(
                    Class::Misconfigured,
                    format!(
                        "key {key} of token {token} is not guarded: {} is false",
                        attribute.attribute_type()
                    ),
                    "make a key with CKA_PRIVATE and CKA_SENSITIVE true (pkcs11-tool: --private --sensitive)",
                ));
            }
            Attribute::Extractable(true) => tracing::warn!(
                token,
                key,
                "the key may leave the token: make one with CKA_EXTRACTABLE false"
            ),
            _ => {}
        }
    }
    Ok(())
}

/// Seals `plain` under `iv`; `aad` is authenticated with it.
pub(super) fn seal(
    session: &Session,
    key: ObjectHandle,
    iv: [u8; IV_BYTES],
    aad: &[u8],
    plain: &[u8; SECRET_BYTES],
) -> Result<Sealed, Error> {
    let mut iv = iv;
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, aad, Ulong::new(TAG_BITS.into()))?);
    let sealed = session.encrypt(&mechanism, key, plain)?;
    let bytes: [u8; SEALED_BYTES] = sealed.as_slice().try_into()?;
    // Only now, since a token that requires an IV of its own overwrites it.
    Ok(Sealed { iv, bytes })
}

/// Opens what [`seal`] returned.
pub(super) fn unseal(
    session: &Session,
    key: ObjectHandle,
    sealed: &Sealed,
    aad: &[u8],
) -> Result<SecretKey, Error> {
    let mut iv = sealed.iv;
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, aad, Ulong::new(TAG_BITS.into()))?);
    let plain = Zeroizing::new(session.decrypt(&mechanism, key, &sealed.bytes)?);
    SecretKey::try_fill(|bytes| {
        let plain: &[u8; SECRET_BYTES] = plain.as_slice().try_into()?;
        bytes.copy_from_slice(plain);
        Ok(())
    })
}
