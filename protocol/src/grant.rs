//! What a keyspace's policy can allow a principal to do.

use crate::wire_enum::wire_bits;

wire_bits! {
    /// A set of grants, written as their names with commas.
    pub struct Grants(u16), "grant" {
        /// SIGN, PUBLIC_KEY.
        SIGN = 1, "sign";
        /// VERIFY, PUBLIC_KEY.
        VERIFY = 2, "verify";
        /// MAC, and VERIFY with a MAC key.
        MAC = 4, "mac";
        /// ENCRYPT.
        ENCRYPT = 8, "encrypt";
        /// DECRYPT.
        DECRYPT = 16, "decrypt";
        /// DERIVE.
        DERIVE = 32, "derive";
        /// GET.
        GET = 64, "get";
        /// Keys, settings and DEKs: all of KEY_*, all of KEYSPACE_* but KEYSPACE_LIST,
        /// FORCE_REFRESH, KMS_INIT, KMS_UNLOCK.
        MANAGE = 128, "manage";
        /// LOCK, UNLOCK, UNLOCK_STATUS.
        UNLOCK = 256, "unlock";
    }
}
