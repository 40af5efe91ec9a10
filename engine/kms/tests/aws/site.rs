//! A KMS on loopback with one key, and helpers for the tests.

use std::path::PathBuf;

use keyway_kms::{Aws, AwsSettings, Class, Context, KmsError, Purpose, SecretKey};
use keyway_testkit::moto::{Moto, MotoKey, REGION};

pub const SECRET: [u8; 32] = *b"\xa7 thirty-two bytes, one by one \xa7";
const ACTIONS: [&str; 4] = [
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "kms:DescribeKey",
];

pub const UNAVAILABLE: Class = Class::Unavailable { retry_after: None };

pub fn context() -> Context {
    Context {
        cluster: *b"0123456789abcdef",
        keyspace: 7,
        generation: 2,
        purpose: Purpose::DataKey,
    }
}

pub fn dek() -> SecretKey {
    SecretKey::take(&mut SECRET.clone())
}

/// A moto that accepts every signature until it is configured to check them, one key (also `alias/keyway`), and a user
/// who may use it.
pub struct Site {
    pub moto: Moto,
    pub key: MotoKey,
    pub credentials: PathBuf,
}

impl Site {
    pub fn start() -> Option<Self> {
        let moto = Moto::start()?;
        let key = moto.create_key();
        moto.point_alias("alias/keyway", &key);
        let credentials = moto.create_user("keyway", &ACTIONS);
        Some(Self {
            moto,
            key,
            credentials,
        })
    }

    pub fn settings(
        &self,
        key_id: &str,
        endpoint_url: String,
        credentials: PathBuf,
    ) -> AwsSettings {
        AwsSettings {
            region: Some(REGION.to_owned()),
            endpoint_url: Some(endpoint_url),
            credentials_file: Some(credentials),
            // The machine may be building concurrently.
            connect_ms_max: 30_000,
            call_ms_max: 30_000,
            ..AwsSettings::new(key_id)
        }
    }

    pub fn open(&self, key_id: &str) -> Aws {
        let credentials = self.credentials.clone();
        Aws::open(self.settings(key_id, self.moto.endpoint_url(), credentials)).unwrap()
    }

    pub fn open_as(&self, credentials: PathBuf) -> Aws {
        Aws::open(self.settings(&self.key.arn, self.moto.endpoint_url(), credentials)).unwrap()
    }
}

pub fn assert_class<T: std::fmt::Debug>(result: Result<T, KmsError>, class: Class) -> KmsError {
    let error = result.unwrap_err();
    assert_eq!(error.class(), class, "{error}");
    error
}
