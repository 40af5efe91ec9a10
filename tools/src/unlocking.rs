//! The command that unlocks a KMS, or a keyspace: `need` is what the KMS's row in STATUS names.

/// Unlocks, or creates, the KMS.
pub fn of_kms(kms: &str, need: &str) -> String {
    match need {
        "passphrase" => format!("keyway kms unlock {kms} --passphrase"),
        "pin" => format!("keyway kms unlock {kms} --pin"),
        "shares" => format!("keyway kms unlock {kms} --share"),
        "init" => format!("keyway kms init {kms} --passphrase"),
        _ => format!("keyway kms unlock {kms}"),
    }
}

/// Unlocks the keyspace. A holder of a share does not wait for the others.
pub fn of_keyspace(keyspace: &str, need: &str) -> String {
    match need {
        "passphrase" => format!("keyway unlock {keyspace} --wait --passphrase"),
        "pin" => format!("keyway unlock {keyspace} --wait --pin"),
        "shares" => format!("keyway unlock {keyspace} --share"),
        _ => format!("keyway unlock {keyspace} --wait"),
    }
}
