//! What an operator gives to unlock a KMS.

use crate::wire_enum::wire_enum;

wire_enum! {
    /// What the secret of an unlock is.
    pub enum UnlockKind, "kind of secret" {
        /// There is none.
        Nothing = 0, "nothing";
        /// A passphrase.
        Passphrase = 1, "passphrase";
        /// A token's PIN.
        Pin = 2, "pin";
        /// One share of several.
        Share = 3, "share";
    }
}
