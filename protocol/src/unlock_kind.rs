//! What an operator gives to unlock a KMS.

use crate::wire_enum::wire_enum;

wire_enum! {
    /// What the secret of UNLOCK and KMS_UNLOCK is. Which of them a KMS takes is the KMS's to say.
    pub enum UnlockKind, "unlock kind" {
        /// There is none: the KMS needs nothing, or is unlocked already.
        Nothing = 0, "nothing";
        /// A passphrase.
        Passphrase = 1, "passphrase";
        /// A token's PIN.
        Pin = 2, "pin";
        /// One share of a secret that several people hold together.
        Share = 3, "share";
    }
}
