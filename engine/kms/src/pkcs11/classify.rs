//! Maps a module's return value to a class.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::slot::TokenInfo;

use super::Pkcs11Settings;
use crate::{Cause, Class, KmsError};

/// Returns `true` if the session, or a handle obtained through it, is no longer valid; a new session may be.
pub(super) fn is_session_lost(error: &Error) -> bool {
    match error {
        Error::Pkcs11(RvError::DeviceError, function) => !matches!(function, Function::Decrypt),
        Error::Pkcs11(value, _) => matches!(
            value,
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::SlotIdInvalid
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::OperationActive
                | RvError::OperationNotInitialized
                | RvError::UserNotLoggedIn
        ),
        _ => false,
    }
}

/// Returns `true` if the module no longer has the login.
pub(super) fn is_not_logged_in(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::UserNotLoggedIn, _))
}

/// What a failed decryption shows about the sealed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecryptFault {
    /// They are corrupt, or sealed under another key or context.
    Bytes,
    /// They or the device: SoftHSM2 returns CKR_GENERAL_ERROR for a wrong tag, others have specific values.
    BytesOrDevice,
    /// Another cause.
    Other,
}

/// Returns what a failed decryption shows. Only a call that processes the bytes can show that they are corrupt.
pub(super) fn blame(error: &Error) -> DecryptFault {
    let Error::Pkcs11(value, Function::Decrypt) = error else {
        return DecryptFault::Other;
    };
    match value {
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange => DecryptFault::Bytes,
        // CKR_AEAD_DECRYPT_FAILED of PKCS#11 3.0, for which the binding has no name.
        RvError::UnknownErrorCode(0x42) => DecryptFault::Bytes,
        RvError::GeneralError
        | RvError::FunctionFailed
        | RvError::DeviceError
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::SignatureInvalid
        | RvError::MechanismParamInvalid
        | RvError::ArgumentsBad
        | RvError::VendorDefined(_)
        | RvError::UnknownErrorCode(_) => DecryptFault::BytesOrDevice,
        _ => DecryptFault::Other,
    }
}

/// Returns the error of any call but a login.
pub(super) fn describe(error: &Error, settings: &Pkcs11Settings) -> KmsError {
    let (token, key) = (&settings.token, &settings.key);
    let what = format!("token {token}: {}", name(error));
    let (class, cause, remedy) = match error {
        Error::LibraryLoading(_) => (
            Class::Misconfigured,
            Cause::ModuleUnusable,
            format!(
                "check that {} is the vendor's PKCS#11 module for this machine",
                settings.module.display()
            ),
        ),
        Error::MissingSymbol(_) | Error::NullFunctionPointer | Error::NotSupported => (
            Class::Misconfigured,
            Cause::ModuleUnusable,
            format!(
                "check that {} is a PKCS#11 module of version 2.40 or newer",
                settings.module.display()
            ),
        ),
        Error::Pkcs11(value, _) => match value {
            RvError::KeyFunctionNotPermitted => (
                Class::Disabled,
                Cause::KeyDisabled,
                format!("set CKA_ENCRYPT and CKA_DECRYPT of key {key} on the token"),
            ),
            RvError::UserNotLoggedIn if settings.pin_file.is_some() => (
                Class::Credential,
                Cause::LoginRefused,
                "check the token: the login from pin_file is made again at the next call"
                    .to_owned(),
            ),
            // A login that the token no longer has was forgotten before.
            RvError::UserNotLoggedIn => (
                Class::Credential,
                Cause::LoginRefused,
                "check the token: its session is logged in, and the call is tried again; if it stays so: keyway kms \
                 unlock NAME --pin --force, or set a pin_file"
                    .to_owned(),
            ),
            RvError::KeyTypeInconsistent
            | RvError::KeySizeRange
            | RvError::MechanismInvalid
            | RvError::MechanismParamInvalid
            | RvError::FunctionNotSupported => (
                Class::Misconfigured,
                Cause::KeyUnsuitable,
                format!("use a token that has CKM_AES_GCM, and an AES-256 key as {key}"),
            ),
            RvError::CantLock | RvError::NeedToCreateThreads => (
                Class::Misconfigured,
                Cause::ModuleUnusable,
                "use a module that works in a process of several threads".to_owned(),
            ),
            RvError::TokenNotPresent | RvError::DeviceRemoved | RvError::SlotIdInvalid => (
                Class::Unavailable { retry_after: None },
                Cause::TokenAbsent,
                "connect the token; it is found again without a restart".to_owned(),
            ),
            _ => (
                Class::Unavailable { retry_after: None },
                Cause::TokenFails,
                "check the token and the way to it".to_owned(),
            ),
        },
        _ => (
            Class::Unavailable { retry_after: None },
            Cause::TokenFails,
            "check the token and the way to it".to_owned(),
        ),
    };
    KmsError::new(class, what, remedy).from_cause(cause)
}

/// Returns the error of a login. `info` is the token's state after it, if it still answers.
pub(super) fn describe_login(
    error: &Error,
    info: Option<&TokenInfo>,
    settings: &Pkcs11Settings,
) -> KmsError {
    let token = &settings.token;
    let Error::Pkcs11(value, _) = error else {
        return describe(error, settings);
    };
    let tries = info.map_or(PinAttempts::Unknown, PinAttempts::of);
    match value {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange
            if tries != PinAttempts::None =>
        {
            KmsError::new(
                Class::Denied,
                format!("token {token} refuses the PIN{}", tries.in_words()),
                match tries {
                    PinAttempts::One => {
                        "be sure of the PIN before the next attempt, which needs --force; or let the security officer \
                         set a new one"
                    }
                    _ => "unlock with the token's user PIN; a wrong one is never sent again automatically",
                },
            )
            .from_cause(Cause::WrongSecret)
        }
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinLocked => {
            KmsError::new(
                Class::Denied,
                format!("the user PIN of token {token} is locked: too many were wrong"),
                "let the token's security officer set a new PIN (C_InitPIN)",
            )
            .from_cause(Cause::PinLocked)
        }
        RvError::PinExpired => KmsError::new(
            Class::Denied,
            format!("the user PIN of token {token} has expired"),
            "change the PIN with the vendor's tool",
        )
        .from_cause(Cause::WrongSecret),
        RvError::UserPinNotInitialized => KmsError::new(
            Class::Misconfigured,
            format!("token {token} has no user PIN yet"),
            "let the token's security officer set one (C_InitPIN)",
        ),
        _ => describe(error, settings),
    }
}

/// What a token reports about the attempts left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PinAttempts {
    /// Nothing, or no wrong PIN.
    Unknown,
    /// A PIN was wrong since the last correct one.
    Fewer,
    One,
    None,
}

impl PinAttempts {
    pub(super) fn of(info: &TokenInfo) -> Self {
        if info.user_pin_locked() {
            Self::None
        } else if info.user_pin_final_try() {
            Self::One
        } else if info.user_pin_count_low() {
            Self::Fewer
        } else {
            Self::Unknown
        }
    }

    /// Returns the second part of a sentence, or nothing.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Fewer => "; it counts wrong PINs and may lock after a few",
            Self::One => "; one more wrong PIN locks it",
            Self::None => "; its PIN is locked",
        }
    }
}

/// Returns the call and its return value, as the standard spells them.
pub(super) fn name(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => format!("C_{function:?} gave {}", ckr_name(*value)),
        // Only the answers of a decryption and an encryption are converted from slices.
        Error::TryFromSlice(_) => "an answer of another length than AES-GCM gives".to_owned(),
        other => other.to_string(),
    }
}

fn ckr_name(value: RvError) -> String {
    match value {
        RvError::VendorDefined(code) => format!("CKR_VENDOR_DEFINED {code:#x}"),
        RvError::UnknownErrorCode(code) => format!("return value {code:#x}"),
        // The binding's names are the standard's in another case, and users search for the standard's.
        named => {
            let mut text = "CKR".to_owned();
            for letter in format!("{named:?}").chars() {
                if letter.is_ascii_uppercase() {
                    text.push('_');
                }
                text.push(letter.to_ascii_uppercase());
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Pkcs11Settings {
        Pkcs11Settings::new("/lib/hsm.so", "vault-1", "kek")
    }

    const DOWN: Class = Class::Unavailable { retry_after: None };

    #[test]
    fn every_return_value_has_its_class_and_is_named_as_the_standard_does() {
        let table = [
            (RvError::KeyFunctionNotPermitted, Class::Disabled),
            (RvError::UserNotLoggedIn, Class::Credential),
            (RvError::MechanismInvalid, Class::Misconfigured),
            (RvError::KeyTypeInconsistent, Class::Misconfigured),
            (RvError::CantLock, Class::Misconfigured),
            (RvError::TokenNotPresent, DOWN),
            (RvError::DeviceError, DOWN),
            (RvError::GeneralError, DOWN),
            (RvError::SessionHandleInvalid, DOWN),
            (RvError::VendorDefined(0x8000_0001), DOWN),
        ];
        for (value, class) in table {
            let error = describe(&Error::Pkcs11(value, Function::DecryptInit), &settings());
            assert_eq!(error.class(), class, "{error}");
            assert!(error.what().contains("vault-1: C_DecryptInit gave "));
        }
        assert_eq!(
            ckr_name(RvError::KeyFunctionNotPermitted),
            "CKR_KEY_FUNCTION_NOT_PERMITTED"
        );
        assert_eq!(ckr_name(RvError::PinIncorrect), "CKR_PIN_INCORRECT");
        assert_eq!(
            ckr_name(RvError::VendorDefined(0x8000_0001)),
            "CKR_VENDOR_DEFINED 0x80000001"
        );
    }

    #[test]
    fn a_refused_login_is_denied_and_says_what_unblocks() {
        let table = [
            (RvError::PinIncorrect, Class::Denied, "refuses the PIN"),
            (RvError::PinLenRange, Class::Denied, "refuses the PIN"),
            (RvError::PinLocked, Class::Denied, "security officer"),
            (RvError::PinExpired, Class::Denied, "expired"),
            (
                RvError::UserPinNotInitialized,
                Class::Misconfigured,
                "no user PIN",
            ),
            (RvError::DeviceError, DOWN, "CKR_DEVICE_ERROR"),
        ];
        for (value, class, part) in table {
            let error = describe_login(&Error::Pkcs11(value, Function::Login), None, &settings());
            assert_eq!(error.class(), class, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn only_the_decryption_itself_blames_the_bytes() {
        let decrypt = |value| blame(&Error::Pkcs11(value, Function::Decrypt));
        assert_eq!(decrypt(RvError::EncryptedDataInvalid), DecryptFault::Bytes);
        assert_eq!(
            decrypt(RvError::UnknownErrorCode(0x42)),
            DecryptFault::Bytes
        );
        assert_eq!(
            decrypt(RvError::UnknownErrorCode(0x43)),
            DecryptFault::BytesOrDevice
        );
        assert_eq!(decrypt(RvError::GeneralError), DecryptFault::BytesOrDevice);
        assert_eq!(decrypt(RvError::DeviceRemoved), DecryptFault::Other);
        let init = Error::Pkcs11(RvError::GeneralError, Function::DecryptInit);
        assert_eq!(blame(&init), DecryptFault::Other);
    }

    #[test]
    fn a_device_error_loses_the_session_unless_the_bytes_may_be_to_blame() {
        let lost = |value, function| is_session_lost(&Error::Pkcs11(value, function));
        assert!(lost(RvError::DeviceError, Function::DecryptInit));
        assert!(!lost(RvError::DeviceError, Function::Decrypt));
        for value in [
            RvError::SessionHandleInvalid,
            RvError::SessionClosed,
            RvError::DeviceRemoved,
            RvError::TokenNotPresent,
            RvError::KeyHandleInvalid,
            RvError::OperationActive,
            RvError::UserNotLoggedIn,
        ] {
            assert!(lost(value, Function::Decrypt), "{value:?}");
        }
        assert!(!lost(RvError::GeneralError, Function::Decrypt));
        assert!(!lost(
            RvError::KeyFunctionNotPermitted,
            Function::DecryptInit
        ));
    }
}
