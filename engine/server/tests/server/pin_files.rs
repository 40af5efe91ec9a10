//! A token with a PIN in a file, SoftHSM2: after a restart, and after everything that was missing is present again, keys
//! are served without a command.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use keyway_client::{Algorithm, KeyOptions, KeyPath, KeyspaceName, Status};
use keyway_testkit::softhsm::SoftHsm;

use crate::common::{Server, Setup, WITHIN, wait_until};

const KEK: &str = "keyway";

fn key() -> KeyPath {
    "shop/key".parse().unwrap()
}

fn write_pin(path: &Path, pin: &str) {
    std::fs::write(path, pin).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A server's directory, and the token whose module is at `module`, a link.
struct Stand {
    hsm: SoftHsm,
    dir: tempfile::TempDir,
}

impl Stand {
    fn new_or_skip() -> Option<Stand> {
        let hsm = keyway_testkit::softhsm::start_or_skip()?;
        hsm.create_aes_key(KEK);
        let stand = Stand {
            hsm,
            dir: tempfile::tempdir().unwrap(),
        };
        symlink(stand.hsm.module(), stand.path("module.so")).unwrap();
        write_pin(&stand.path("pin"), stand.hsm.pin());
        let config = format!(
            "default_kms = \"hsm\"\n[kms.hsm]\nprovider = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\n\
             key = {KEK:?}\npin_file = {:?}\n",
            stand.path("module.so"),
            stand.hsm.token_label(),
            stand.path("pin"),
        );
        std::fs::write(stand.path("keywayd.toml"), config).unwrap();
        Some(stand)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self) -> Server {
        let config = self.path("keywayd.toml");
        let setup = Setup::new(&self.path("data")).shards(1);
        let setup = setup.flag("--config").flag(config.to_str().unwrap());
        let mut command = setup.command();
        command.envs(self.hsm.env());
        setup.start_as(command)
    }

    /// Starts with a keyspace and a key, and stops.
    fn prepare(&self) {
        let server = self.start();
        let client = server.client();
        let shop: KeyspaceName = "shop".parse().unwrap();
        client.keyspace_create(&shop, &[("kms", "hsm")]).unwrap();
        let made = client.key_generate(&key(), Algorithm::HmacSha256, KeyOptions::default());
        made.unwrap();
        server.stop();
    }
}

fn wait_for_service(server: &Server) {
    let client = server.client();
    wait_until("service", WITHIN, || client.mac(&key(), b"m").is_ok());
}

fn wait_for_refusal(server: &Server) {
    let client = server.client();
    wait_until("a refusal", WITHIN, || {
        let refused = client.mac(&key(), b"m").unwrap_err();
        refused.status() == Some(Status::NeedsUnlock)
    });
    server.wait_for_log("unwrap failed");
}

#[test]
fn a_restart_needs_no_command() {
    let Some(stand) = Stand::new_or_skip() else {
        return;
    };
    stand.prepare();
    let server = stand.start();
    wait_for_service(&server);
    server.stop();

    // The token's owner has changed the PIN, and its file.
    stand.hsm.change_pin(stand.hsm.pin(), "8765-other");
    write_pin(&stand.path("pin"), "8765-other");
    wait_for_service(&stand.start());
}

/// A server that stopped right after a login ended with SIGSEGV: the thread of the module was at work when the exit handlers
/// of the module's libraries ran.
#[test]
fn a_clean_stop_does_not_run_exit_handlers_of_the_module() {
    let Some(stand) = Stand::new_or_skip() else {
        return;
    };
    std::fs::remove_file(stand.path("module.so")).unwrap();
    symlink(stand.hsm.faulty(), stand.path("module.so")).unwrap();
    stand.prepare();
    stand.hsm.set_faults("exit 0x0\n");
    let server = stand.start();
    wait_for_service(&server);
    server.stop();
}

#[test]
fn a_token_that_is_connected_after_the_start_is_found() {
    let Some(stand) = Stand::new_or_skip() else {
        return;
    };
    stand.prepare();
    let elsewhere = stand.hsm.directory().join("elsewhere");
    std::fs::rename(stand.hsm.tokens(), &elsewhere).unwrap();
    let server = stand.start();
    wait_for_refusal(&server);
    std::fs::rename(&elsewhere, stand.hsm.tokens()).unwrap();
    wait_for_service(&server);
}

#[test]
fn a_module_that_is_installed_after_the_start_is_loaded() {
    let Some(stand) = Stand::new_or_skip() else {
        return;
    };
    stand.prepare();
    std::fs::remove_file(stand.path("module.so")).unwrap();
    let server = stand.start();
    wait_for_refusal(&server);
    server.wait_for_log("cause=\"module_unusable\"");
    symlink(stand.hsm.module(), stand.path("module.so")).unwrap();
    wait_for_service(&server);
}

/// A PIN that is corrected in the file is used while the server runs.
#[test]
fn a_pin_that_is_corrected_in_the_file_is_used() {
    let Some(stand) = Stand::new_or_skip() else {
        return;
    };
    stand.prepare();
    stand.hsm.change_pin(stand.hsm.pin(), "8765-other");
    let server = stand.start();
    wait_for_refusal(&server);
    write_pin(&stand.path("pin"), "8765-other");
    wait_for_service(&server);
}
