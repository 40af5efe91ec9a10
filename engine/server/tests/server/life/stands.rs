//! The KMSes of the tests: their configuration, and how they refuse.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use keyway_client::blocking::Client;
use keyway_client::{KmsState, Status, UnlockWith};
use keyway_testkit::openbao::{Mode, OpenBao};
use keyway_testkit::softhsm::SoftHsm;
use serde_json::json;
use tempfile::TempDir;

use crate::common::{Server, Setup};

/// A KMS that wraps a keyspace's DEKs.
pub trait Stand {
    /// Returns its table of the configuration.
    fn table(&self, name: &str) -> String;

    /// Starts the server.
    fn start(&self, setup: &Setup) -> Server {
        setup.start()
    }

    /// Opens it after a start, if necessary.
    fn open(&mut self, _: &Client) {}

    /// Makes it refuse.
    fn deny(&mut self, client: &Client);

    /// Ends the refusal.
    fn allow(&mut self, client: &Client);

    /// Returns the secret that opens a keyspace that was refused.
    fn secret(&self) -> UnlockWith<'_> {
        UnlockWith::Nothing
    }
}

/// A KEK file. It has no access control, so its refusal is an operator's lock.
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

/// moto, with microburst in front for what moto does not support. Signatures are made for microburst's address, so moto
/// does not check them here; in the provider's own tests it does.
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

/// OpenBao, which refuses when the policy that allows the use of the key is removed.
pub struct BaoStand {
    bao: OpenBao,
    files: TempDir,
}

const POLICY: &str = "keyway";
const TRANSIT_KEY: &str = "keyway";

impl BaoStand {
    pub fn start_or_skip() -> Option<Self> {
        let bao = OpenBao::start_or_skip(Mode::InMemory)?;
        bao.enable_transit("transit");
        bao.create_key(TRANSIT_KEY, true);
        bao.write_key_policy(POLICY, "transit", TRANSIT_KEY);
        let files = tempfile::tempdir().unwrap();
        let token = bao.token_for(&[POLICY], &json!({ "period": "1h" }));
        let token_file = files.path().join("token");
        std::fs::write(&token_file, token).unwrap();
        std::fs::set_permissions(&token_file, Permissions::from_mode(0o600)).unwrap();
        Some(Self { bao, files })
    }
}

impl Stand for BaoStand {
    fn table(&self, name: &str) -> String {
        format!(
            "[kms.{name}]\nprovider = \"vault\"\naddress = {:?}\nkey = {TRANSIT_KEY:?}\n\
             auth = {{ method = \"token\", token_file = {:?} }}\n",
            self.bao.url(),
            self.files.path().join("token"),
        )
    }

    fn deny(&mut self, _: &Client) {
        self.bao.remove_policy(POLICY);
    }

    fn allow(&mut self, _: &Client) {
        self.bao.write_key_policy(POLICY, "transit", TRANSIT_KEY);
    }
}

/// A SoftHSM2 token. After each start it needs its PIN, and a wrong one is refused; once it is open it has no access
/// control, and the refusal is an operator's lock.
pub struct TokenStand {
    token: SoftHsm,
}

const TOKEN_KEY: &str = "keyway";

impl TokenStand {
    pub fn start_or_skip() -> Option<Self> {
        let token = keyway_testkit::softhsm::start_or_skip()?;
        token.create_aes_key(TOKEN_KEY);
        Some(Self { token })
    }
}

impl Stand for TokenStand {
    fn table(&self, name: &str) -> String {
        format!(
            "[kms.{name}]\nprovider = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\nkey = {TOKEN_KEY:?}\n",
            self.token.module(),
            self.token.token_label(),
        )
    }

    fn start(&self, setup: &Setup) -> Server {
        let mut command = setup.command();
        command.envs(self.token.env());
        setup.start_as(command)
    }

    fn open(&mut self, client: &Client) {
        let kms = "main".parse().unwrap();
        let wrong = client.kms_unlock(&kms, UnlockWith::Pin(b"000000"));
        let status = wrong.unwrap_err().status();
        assert_eq!(status, Some(Status::Forbidden));
        let pin = UnlockWith::Pin(self.token.pin().as_bytes());
        let opened = client.kms_unlock(&kms, pin).unwrap().value;
        assert_eq!(opened.state, KmsState::Unlocked);
    }

    fn deny(&mut self, client: &Client) {
        client.lock(&"life".parse().unwrap()).unwrap();
    }

    fn allow(&mut self, _: &Client) {}

    fn secret(&self) -> UnlockWith<'_> {
        // A keyspace that an operator locked is opened with the KMS's secret only.
        UnlockWith::Pin(self.token.pin().as_bytes())
    }
}
