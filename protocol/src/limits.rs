//! Every bound of the wire, by name. The relations between them are checked at compile time.

/// The fixed header of a request and of a response, in bytes, the length field included.
pub const HEADER_LEN: usize = 32;

/// The length field at the start of a frame, in bytes. It counts what comes after it.
pub const LENGTH_FIELD_LEN: usize = 4;

/// The longest message to sign, verify, MAC or encrypt (with its associated data), in bytes.
pub const MESSAGE_LEN_MAX: usize = 65_536;

/// The longest payload of a request or a response, in bytes: a message and what goes with it.
pub const PAYLOAD_LEN_MAX: usize = MESSAGE_LEN_MAX + 1_024;

/// The longest key id, in bytes.
pub const KEY_ID_LEN_MAX: usize = 128;

/// The longest keyspace name, in bytes.
pub const KEYSPACE_NAME_LEN_MAX: usize = 64;

/// The longest frame, its length field included, in bytes.
pub const FRAME_LEN_MAX: usize = HEADER_LEN + KEY_ID_LEN_MAX + PAYLOAD_LEN_MAX;

/// The most shards that a server can have.
pub const SHARD_COUNT_MAX: u16 = 1_024;

/// The most keyspaces that a HELLO answer can name; KEYSPACE_LIST tells of more.
pub const KEYSPACE_COUNT_MAX: usize = 900;

/// The longest client name in HELLO, in bytes.
pub const CLIENT_NAME_LEN_MAX: usize = 64;

/// The longest signature or tag that VERIFY takes, in bytes: that of RSA-4096.
pub const SIGNATURE_LEN_MAX: usize = 512;

/// The longest digest that SIGN and VERIFY take, in bytes: that of SHA-512.
pub const DIGEST_LEN_MAX: usize = 64;

/// The most bytes that DERIVE gives at once.
pub const DERIVED_LEN_MAX: usize = 4_096;

/// The longest salt of DERIVE, in bytes.
pub const SALT_LEN_MAX: usize = 512;

/// The nonce of both AEAD algorithms, in bytes.
pub const NONCE_LEN: usize = 12;

/// The tag of both AEAD algorithms, in bytes.
pub const TAG_LEN: usize = 16;

/// The longest key material that KEY_IMPORT and KEY_ROTATE take, in bytes.
pub const MATERIAL_LEN_MAX: usize = 16_384;

/// The longest text of settings, in bytes.
pub const SETTINGS_LEN_MAX: usize = 16_384;

/// The longest name of a KMS, in bytes.
pub const KMS_NAME_LEN_MAX: usize = 64;

/// The longest passphrase, PIN or share of UNLOCK, KMS_UNLOCK and KMS_INIT, in bytes.
pub const UNLOCK_SECRET_LEN_MAX: usize = 1_024;

/// The most shares that KMS_INIT makes.
pub const KMS_SHARES_MAX: u8 = 16;

/// The most rows in one answer to KEY_LIST, and what a limit of 0 asks for.
pub const KEY_LIST_ROWS_MAX: u16 = 256;

/// The most keys in an answer to KEYSPACE_HOT, and what a limit of 0 asks for.
pub const HOT_KEYS_MAX: u16 = 128;

/// The longest cursor of KEY_LIST, in bytes.
pub const CURSOR_LEN_MAX: usize = 256;

/// The longest explanation in an answer that is not OK, in bytes.
pub const EXPLANATION_LEN_MAX: usize = 1_024;

/// The fixed part of a HELLO answer, in bytes: up to the ports, and the count of keyspaces.
pub(crate) const SERVER_HELLO_FIXED_LEN: usize = 28 + 2;

/// Length in bytes of one key of KEYSPACE_HOT with its counts, as JSON, with every byte of its id escaped.
pub(crate) const HOT_KEY_LEN_MAX: usize = 512;

/// The fixed part of a row of KEY_LIST, in bytes.
pub(crate) const KEY_ROW_FIXED_LEN: usize = 1 + 4 + 1 + 1 + 4 + 16;

const _: () = {
    assert!(4 + MESSAGE_LEN_MAX <= PAYLOAD_LEN_MAX, "SIGN fits");
    assert!(
        8 + SIGNATURE_LEN_MAX + MESSAGE_LEN_MAX <= PAYLOAD_LEN_MAX,
        "VERIFY fits"
    );
    assert!(
        4 + 4 + NONCE_LEN + MESSAGE_LEN_MAX + TAG_LEN <= PAYLOAD_LEN_MAX,
        "DECRYPT takes whatever ENCRYPT gave, with the same associated data"
    );
    assert!(
        4 + SALT_LEN_MAX + MESSAGE_LEN_MAX <= PAYLOAD_LEN_MAX,
        "DERIVE fits"
    );
    assert!(DERIVED_LEN_MAX <= 255 * 32, "HKDF-SHA-256 gives no more");
    assert!(
        SERVER_HELLO_FIXED_LEN
            + 2 * SHARD_COUNT_MAX as usize
            + KEYSPACE_COUNT_MAX * (5 + KEYSPACE_NAME_LEN_MAX)
            <= PAYLOAD_LEN_MAX,
        "a full HELLO answer fits"
    );
    assert!(
        2 + CURSOR_LEN_MAX + KEY_LIST_ROWS_MAX as usize * (KEY_ROW_FIXED_LEN + KEY_ID_LEN_MAX)
            <= PAYLOAD_LEN_MAX,
        "a full page of KEY_LIST fits"
    );
    assert!(
        1_024 + HOT_KEYS_MAX as usize * HOT_KEY_LEN_MAX <= PAYLOAD_LEN_MAX,
        "a full answer to KEYSPACE_HOT fits"
    );
    assert!(KEYSPACE_NAME_LEN_MAX + 1 + SETTINGS_LEN_MAX <= PAYLOAD_LEN_MAX);
    assert!(16 + MATERIAL_LEN_MAX <= PAYLOAD_LEN_MAX);
    assert!(3 + KMS_NAME_LEN_MAX + UNLOCK_SECRET_LEN_MAX <= PAYLOAD_LEN_MAX);
    assert!(EXPLANATION_LEN_MAX <= PAYLOAD_LEN_MAX);
    // These lengths stand in one byte somewhere.
    assert!(KEY_ID_LEN_MAX <= u8::MAX as usize);
    assert!(KEYSPACE_NAME_LEN_MAX <= u8::MAX as usize);
    assert!(KMS_NAME_LEN_MAX <= u8::MAX as usize);
    // And this one in two.
    assert!(UNLOCK_SECRET_LEN_MAX <= u16::MAX as usize);
};
