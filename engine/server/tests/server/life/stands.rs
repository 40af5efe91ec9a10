//! Where a keyspace lives: a KMS, how the server is told of it, and how it refuses.

use keyway_client::blocking::Client;

use crate::common::{Server, Setup};

/// A KMS that a keyspace lives at.
pub trait Stand {
    /// Its table of the configuration.
    fn table(&self, name: &str) -> String;

    /// Starts the server.
    fn start(&self, setup: &Setup) -> Server {
        setup.start()
    }

    /// Opens it after a start, if it wants that.
    fn open(&mut self, _: &Client) {}

    /// From now on it refuses.
    fn deny(&mut self, client: &Client);

    /// From now on it does not.
    fn allow(&mut self, client: &Client);
}

/// A KEK file. It knows nobody whom it could refuse: its refusal is an operator's lock.
pub struct LocalStand;

impl LocalStand {
    pub fn new() -> Self {
        Self
    }
}

impl Stand for LocalStand {
    fn table(&self, name: &str) -> String {
        format!("[kms.{name}]\nprovider = \"local\"\n")
    }

    fn deny(&mut self, client: &Client) {
        client.lock(&"life".parse().unwrap()).unwrap();
    }

    fn allow(&mut self, _: &Client) {}
}

/// moto, with microburst before it for what moto does not do. Signatures are made for microburst's address, so moto does
/// not check them here; the provider's own tests have it check them.
#[cfg(feature = "aws")]
pub struct AwsStand {
    _moto: keyway_testkit::moto::Moto,
    faults: keyway_testkit::microburst::Microburst,
    key: keyway_testkit::moto::MotoKey,
    credentials: std::path::PathBuf,
}

#[cfg(feature = "aws")]
impl AwsStand {
    pub fn start_or_skip() -> Option<Self> {
        let moto = keyway_testkit::moto::Moto::start()?;
        let faults = keyway_testkit::microburst::Microburst::start(&moto)?;
        let key = moto.create_key();
        let credentials = moto.create_user(
            "keyway",
            &[
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:GenerateDataKey",
                "kms:DescribeKey",
            ],
        );
        Some(Self {
            _moto: moto,
            faults,
            key,
            credentials,
        })
    }
}

#[cfg(feature = "aws")]
impl Stand for AwsStand {
    fn table(&self, name: &str) -> String {
        format!(
            "[kms.{name}]\nprovider = \"aws\"\nkey_id = {:?}\nregion = {:?}\nendpoint_url = {:?}\n\
             credentials_file = {:?}\n",
            self.key.arn,
            keyway_testkit::moto::REGION,
            self.faults.endpoint_url(),
            self.credentials,
        )
    }

    fn deny(&mut self, _: &Client) {
        let message = "User: keyway is not authorized to perform: kms:Decrypt";
        self.faults
            .answer_error("AccessDeniedException", 400, message);
    }

    fn allow(&mut self, _: &Client) {
        self.faults.pass();
    }
}
