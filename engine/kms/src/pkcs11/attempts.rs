//! Determines which PINs may be sent. A token counts wrong ones, and locks after too many: permanently, unless its
//! security officer is available. So an attempt that may be the last is never made without an operator's consent.

use std::path::Path;

use cryptoki::slot::TokenInfo;
use ring::hmac;
use ring::rand::SystemRandom;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Pkcs11Settings;
use super::classify::PinAttempts;
use crate::secret::fill_random;
use crate::{Cause, Class, KmsError, Pin};

/// Consecutive wrong PINs after which the next may be the last, for a token that does not report how many attempts are
/// left: the strictest tokens lock at the third.
const REFUSED_MAX: u32 = 2;

/// The remedy where the PIN that is given next may be the last one that the token checks.
const NEEDS_FORCE: &str =
    "be sure of the PIN, then give it with --force: keyway kms unlock NAME --pin --force";

/// A PIN's fingerprint under a key of this process, so that two PINs can be compared without storing either.
pub(super) struct Fingerprint(Zeroizing<[u8; 32]>);

impl Fingerprint {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

/// The PINs refused since the last correct one, as far as they are known.
pub(super) struct Attempts {
    key: hmac::Key,
    refused_count: u32,
    refused_from_file: Option<Fingerprint>,
    /// The token's latest refusal was that its PIN is locked. Not every token has a flag for that.
    is_pin_locked: bool,
}

impl Attempts {
    pub(super) fn new(random: &SystemRandom) -> Result<Self, KmsError> {
        let mut key = Zeroizing::new([0; 32]);
        fill_random(random, &mut *key)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &*key),
            refused_count: 0,
            refused_from_file: None,
            is_pin_locked: false,
        })
    }

    pub(super) fn fingerprint(&self, pin: &Pin) -> Fingerprint {
        let tag = hmac::sign(&self.key, pin.expose().as_bytes());
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(tag.as_ref());
        Fingerprint(bytes)
    }

    /// Refuses a PIN from an operator if it could be the last attempt.
    pub(super) fn check_given(
        &self,
        info: &TokenInfo,
        settings: &Pkcs11Settings,
    ) -> Result<(), KmsError> {
        let token = &settings.token;
        let why = match PinAttempts::of(info) {
            PinAttempts::Unknown => return Ok(()),
            PinAttempts::None => {
                return Err(KmsError::new(
                    Class::Denied,
                    format!("the user PIN of token {token} is locked: too many were wrong"),
                    "let the token's security officer set a new PIN (C_InitPIN)",
                )
                .from_cause(Cause::PinLocked));
            }
            PinAttempts::One => "a wrong PIN now locks it (CKF_USER_PIN_FINAL_TRY)".to_owned(),
            PinAttempts::Fewer if (1..REFUSED_MAX).contains(&self.refused_count) => return Ok(()),
            PinAttempts::Fewer => format!(
                "it has refused a PIN {} and does not say how many attempts are left \
                 (CKF_USER_PIN_COUNT_LOW)",
                match self.refused_count {
                    0 => "before this server asked it".to_owned(),
                    count => format!("{count} times in a row"),
                }
            ),
        };
        Err(KmsError::new(
            Class::Denied,
            format!("the PIN was not sent to token {token}: {why}"),
            NEEDS_FORCE,
        )
        .from_cause(Cause::WrongSecret))
    }

    /// Refuses the PIN in a file if the token may refuse it: it would be sent at each restart and each lost login, and
    /// would exhaust the token's attempts without an operator. Another PIN than the refused one is sent once.
    pub(super) fn check_file(
        &self,
        pin: &Pin,
        path: &Path,
        info: &TokenInfo,
        settings: &Pkcs11Settings,
    ) -> Result<(), KmsError> {
        let tries = PinAttempts::of(info);
        let is_refused_one = self
            .refused_from_file
            .as_ref()
            .map(|refused| refused.is_same(&self.fingerprint(pin)));
        match (tries, is_refused_one) {
            (PinAttempts::Unknown, None | Some(false)) => return Ok(()),
            // The file was replaced after the known refusal.
            (PinAttempts::Fewer, Some(false)) if self.refused_count < REFUSED_MAX => return Ok(()),
            _ => {}
        }
        if tries == PinAttempts::None || self.is_pin_locked {
            return Err(KmsError::new(
                Class::Denied,
                format!(
                    "the user PIN of token {} is locked: too many were wrong, so the one in {} is not sent",
                    settings.token,
                    path.display()
                ),
                "let the token's security officer set a new PIN (C_InitPIN), and write it to the file",
            )
            .from_cause(Cause::PinLocked));
        }
        // What `check_given` will say to the PIN that an operator gives.
        let remedy = match tries {
            PinAttempts::One => NEEDS_FORCE,
            PinAttempts::Fewer if !(1..REFUSED_MAX).contains(&self.refused_count) => NEEDS_FORCE,
            PinAttempts::Fewer | PinAttempts::Unknown | PinAttempts::None => {
                "correct the file, or unlock by giving the PIN itself: keyway kms unlock NAME --pin"
            }
        };
        Err(KmsError::new(
            Class::Denied,
            format!(
                "token {} has refused a PIN since the last login, so the one in {} is not sent{}",
                settings.token,
                path.display(),
                tries.in_words()
            ),
            remedy,
        )
        .from_cause(Cause::WrongSecret))
    }

    pub(super) fn note_refused(&mut self, pin: &Pin, is_from_file: bool, cause: Cause) {
        self.is_pin_locked = cause == Cause::PinLocked;
        self.refused_count = self.refused_count.saturating_add(1);
        if is_from_file {
            self.refused_from_file = Some(self.fingerprint(pin));
        }
    }

    pub(super) fn note_accepted(&mut self) {
        self.refused_count = 0;
        self.refused_from_file = None;
        self.is_pin_locked = false;
    }
}
