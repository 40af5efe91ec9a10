//! A token with a PIN file: SoftHSM2, and a module in front that fails on demand.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyway_client::UnlockWith;
use keyway_testkit::softhsm::SoftHsm;

use super::{Shop, WITHIN, matrix};
use crate::common::{Server, wait_until};

const KEY: &str = "keyway";

/// Opens a shop whose KMS is a new key of the token, behind the module that fails on demand. `more`: further settings.
fn open(token: &SoftHsm, pin: Option<&[u8]>, dir: &Path, more: &str) -> Shop {
    token.create_aes_key(KEY);
    token.set_faults("");
    let table = format!(
        "module = {:?}\ntoken = {:?}\nkey = {KEY:?}\n{more}",
        token.faulty(),
        token.token_label(),
    );
    let env = token.env();
    let env: Vec<_> = env
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .collect();
    Shop::open_within(&[], pin, "pkcs11", dir, &table, &env)
}

fn write_pin(path: &Path, pin: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, pin).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn give_pin(server: &Server, token: &SoftHsm) {
    let main = "main".parse().unwrap();
    let client = server.client();
    wait_until("the PIN", WITHIN, || {
        let given = client.kms_unlock(&main, UnlockWith::Pin(token.pin().as_bytes()));
        given.is_ok()
    });
}

#[test]
fn at_a_token() {
    let Some(token) = keyway_testkit::softhsm::start_or_skip() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let pin_file = dir.path().join("pin");
    write_pin(&pin_file, token.pin());
    let more = format!("pin_file = {pin_file:?}");
    let mut shop = open(&token, None, dir.path(), &more);
    let elsewhere = token.directory().join("elsewhere");
    let (out, back) = (token.tokens(), elsewhere.clone());
    shop.suffer(
        "the token is taken out; later put back",
        || std::fs::rename(&out, &elsewhere).unwrap(),
        || std::fs::rename(&back, token.tokens()).unwrap(),
    );
    for (trouble, fault) in [
        (
            "the login is lost (CKR_USER_NOT_LOGGED_IN)",
            "C_DecryptInit 0x101",
        ),
        ("the device fails (CKR_DEVICE_ERROR)", "C_DecryptInit 0x30"),
        ("the module hangs", "C_DecryptInit hang"),
        (
            "the key may not decrypt (CKR_KEY_FUNCTION_NOT_PERMITTED)",
            "C_DecryptInit 0x68",
        ),
    ] {
        shop.suffer(
            trouble,
            || token.set_faults(&format!("{fault}\n")),
            || token.set_faults(""),
        );
    }
    let copy = token.directory().join("copy");
    copy_directory(&token.tokens(), &copy);
    shop.suffer(
        "the key is recreated; later the old one restored",
        || {
            token.delete_key(KEY);
            token.create_aes_key(KEY);
        },
        || {
            std::fs::remove_dir_all(token.tokens()).unwrap();
            std::fs::rename(&copy, token.tokens()).unwrap();
        },
    );
    // The second attempt called the PIN wrong, and told operators to correct the file. The PIN is not sent from the file
    // again, which still has the one that was refused.
    let give_pin = |server: &Server| give_pin(server, &token);
    shop.suffer_until(
        "the login is lost, and the PIN is locked (CKR_PIN_LOCKED); later it is unlocked",
        || token.set_faults("C_DecryptInit logout\nC_Login 0xa4\n"),
        || token.set_faults(""),
        Some(("`keyway kms unlock main --pin`", &give_pin)),
    );
    let log = shop.server.log();
    assert!(
        !log.contains("has refused a PIN since the last login"),
        "{log}"
    );
    matrix::check("pkcs11", &shop.rows);
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// One wrong answer of the module locked the KMS, and an operator had to give the PIN again.
#[test]
fn at_a_token_without_a_pin_file() {
    let Some(token) = keyway_testkit::softhsm::start_or_skip() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let pin = Some(token.pin().as_bytes());
    let mut shop = open(&token, pin, dir.path(), "");
    shop.suffer(
        "the module denies the login that the token has (CKR_USER_NOT_LOGGED_IN)",
        || token.set_faults("C_DecryptInit 0x101\n"),
        || token.set_faults(""),
    );
    let elsewhere = token.directory().join("elsewhere");
    let give_pin = |server: &Server| give_pin(server, &token);
    shop.suffer_until(
        "the token is taken out; later put back",
        || std::fs::rename(token.tokens(), &elsewhere).unwrap(),
        || std::fs::rename(&elsewhere, token.tokens()).unwrap(),
        Some(("`keyway kms unlock main --pin`", &give_pin)),
    );
    matrix::check("pkcs11 without a PIN file", &shop.rows);
}
