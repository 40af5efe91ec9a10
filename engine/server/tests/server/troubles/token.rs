//! A token with a PIN file: SoftHSM2, and a module in front that fails on demand.

use std::os::unix::fs::PermissionsExt;

use super::Shop;

const KEY: &str = "keyway";

#[test]
fn at_a_token() {
    let Some(token) = keyway_testkit::softhsm::start_or_skip() else {
        return;
    };
    token.create_aes_key(KEY);
    token.set_faults("");
    let dir = tempfile::tempdir().unwrap();
    let pin_file = dir.path().join("pin");
    std::fs::write(&pin_file, token.pin()).unwrap();
    std::fs::set_permissions(&pin_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let table = format!(
        "module = {:?}\ntoken = {:?}\nkey = {KEY:?}\npin_file = {pin_file:?}",
        token.faulty(),
        token.token_label(),
    );
    let env = token.env();
    let env: Vec<_> = env
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .collect();
    let mut shop = Shop::open("pkcs11", dir.path(), &table, &env);
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
    shop.close();
}
