//! Tests of the local KMS through its interface, on real files.

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Poll, Waker};

use super::kek_file::{PlainKek, Protected};
use super::*;
use crate::Purpose;
use crate::hex::HexSecret;

/// The cheapest allowed parameters, for speed.
const CHEAP: Argon2Params = Argon2Params {
    m_kib: Argon2Params::M_KIB_MIN,
    t: 1,
    p: 1,
};

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.into()).unwrap()
}

fn with_passphrase(text: &str) -> UnlockSecret {
    UnlockSecret::Passphrase(passphrase(text))
}

const RIGHT: &str = "correct horse";
const WRONG: &str = "correct house";

fn context() -> Context {
    Context {
        cluster: [9; 16],
        keyspace: 7,
        generation: 3,
        purpose: Purpose::DataKey,
    }
}

fn dek() -> SecretKey {
    SecretKey::take(&mut std::array::from_fn(|i| i as u8))
}

struct Dir {
    directory: tempfile::TempDir,
}

impl Dir {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { directory }
    }

    fn kek(&self) -> PathBuf {
        self.directory.path().join("kek.json")
    }

    fn place(&self, text: &[u8]) {
        fs::write(self.kek(), text).unwrap();
        fs::set_permissions(self.kek(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    async fn protected(&self) -> Local {
        Local::create(&self.kek(), passphrase(RIGHT), CHEAP)
            .await
            .unwrap()
    }

    fn unprotected(&self) -> Local {
        Local::create_unprotected(&self.kek()).unwrap()
    }

    fn open(&self) -> Local {
        Local::open(&self.kek(), DevKek::Refuse).unwrap()
    }
}

async fn wrap(local: &Local) -> Wrapped {
    local.wrap(&context(), &dek()).await.unwrap()
}

async fn assert_unwraps(local: &Local, wrapped: &Wrapped) {
    assert!(
        local
            .unwrap(&context(), &wrapped.0)
            .await
            .unwrap()
            .is_same(&dek())
    );
}

#[tokio::test]
async fn a_protected_kek_outlives_a_restart() {
    let dir = Dir::new();
    let local = dir.protected().await;
    assert_eq!(local.state(), ProviderState::Unlocked);
    assert!(!local.is_unprotected());
    assert_eq!(
        fs::metadata(dir.kek()).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let wrapped = wrap(&local).await;
    drop(local);

    let local = dir.open();
    assert_eq!(
        (local.state(), local.unlock_need()),
        (ProviderState::Locked, UnlockNeed::Passphrase)
    );
    let error = local.unwrap(&context(), &wrapped.0).await.unwrap_err();
    assert_eq!(error.class(), Class::Locked);
    assert_eq!(
        local.wrap(&context(), &dek()).await.unwrap_err().class(),
        Class::Locked
    );
    local.unlock(with_passphrase(RIGHT)).await.unwrap();
    assert_unwraps(&local, &wrapped).await;
}

#[tokio::test]
async fn a_wrong_passphrase_is_denied_and_changes_nothing() {
    let dir = Dir::new();
    drop(dir.protected().await);
    let before = fs::read(dir.kek()).unwrap();
    let local = dir.open();
    assert_eq!(
        local
            .unlock(with_passphrase(WRONG))
            .await
            .unwrap_err()
            .class(),
        Class::Denied
    );
    assert_eq!(
        local
            .unlock(UnlockSecret::Nothing)
            .await
            .unwrap_err()
            .class(),
        Class::Locked
    );
    assert_eq!(local.state(), ProviderState::Locked);
    assert_eq!(fs::read(dir.kek()).unwrap(), before);

    local.unlock(with_passphrase(RIGHT)).await.unwrap();
    assert_eq!(
        local
            .unlock(with_passphrase(WRONG))
            .await
            .unwrap_err()
            .class(),
        Class::Denied
    );
    assert_eq!(local.state(), ProviderState::Unlocked);
}

#[tokio::test]
async fn another_context_is_refused() {
    let local = Dir::new().unprotected();
    let wrapped = wrap(&local).await;
    assert_unwraps(&local, &wrapped).await;
    let good = context();
    let others = [
        Context {
            cluster: [8; 16],
            ..good
        },
        Context {
            keyspace: 8,
            ..good
        },
        Context {
            generation: 4,
            ..good
        },
        Context {
            keyspace: 3,
            generation: 7,
            ..good
        },
    ];
    for other in others {
        let error = local.unwrap(&other, &wrapped.0).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{other:?}");
    }
}

#[tokio::test]
async fn changed_wrapped_keys_are_refused() {
    let local = Dir::new().unprotected();
    let wrapped = wrap(&local).await;
    for at in 0..wrapped.0.len() {
        for bit in 0..8 {
            let mut bad = wrapped.0.clone();
            bad[at] ^= 1 << bit;
            let class = local.unwrap(&context(), &bad).await.unwrap_err().class();
            // The KEK version and the file's id are in plaintext: there is no such KEK here.
            let expected = if (8..28).contains(&at) {
                Class::Misconfigured
            } else {
                Class::Corrupt
            };
            assert_eq!(class, expected, "byte {at} bit {bit}");
        }
    }
    for len in 0..wrapped.0.len() {
        let error = local
            .unwrap(&context(), &wrapped.0[..len])
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{len} bytes");
    }
    let longer = [wrapped.0.as_slice(), &[0]].concat();
    assert_eq!(
        local.unwrap(&context(), &longer).await.unwrap_err().class(),
        Class::Corrupt
    );
}

#[tokio::test]
async fn two_wraps_of_one_key_differ() {
    let local = Dir::new().unprotected();
    assert_ne!(wrap(&local).await, wrap(&local).await);
}

/// Adds a KEK version to an unprotected file, as a file format for several has them.
fn add_version(dir: &Dir, version: u32) {
    let mut file = KekFile::parse(&fs::read(dir.kek()).unwrap()).unwrap();
    let Keks::Unprotected(unprotected) = &mut file.keks else {
        panic!("it is unprotected");
    };
    unprotected.versions.push(PlainKek {
        version,
        created_unix_ms: 7,
        key: HexSecret(dek()),
    });
    let file = KekFile::new(file.id, file.keks);
    dir.place(&file.to_text().unwrap());
}

#[tokio::test]
async fn old_kek_versions_still_unwrap() {
    let dir = Dir::new();
    let first = wrap(&dir.unprotected()).await;
    add_version(&dir, 2);
    let local = Local::open(&dir.kek(), DevKek::Allow).unwrap();
    let second = wrap(&local).await;
    assert_eq!(WrapNames::parse(&first.0).unwrap().kek_version, 1);
    assert_eq!(WrapNames::parse(&second.0).unwrap().kek_version, 2);
    for wrapped in [&first, &second] {
        assert_unwraps(&local, wrapped).await;
    }
}

#[tokio::test]
async fn a_kek_file_without_a_version_is_named_as_the_fault() {
    let dir = Dir::new();
    drop(dir.unprotected());
    let old = fs::read(dir.kek()).unwrap();
    add_version(&dir, 2);
    let local = Local::open(&dir.kek(), DevKek::Allow).unwrap();
    let wrapped = wrap(&local).await;
    let newest = fs::read(dir.kek()).unwrap();
    dir.place(&old);
    let local = Local::open(&dir.kek(), DevKek::Allow).unwrap();
    let error = local.unwrap(&context(), &wrapped.0).await.unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured);
    assert!(error.what().contains("KEK version 2"), "{error}");
    assert_eq!(error.remedy(), "restore the newest copy of the KEK file");
    dir.place(&newest);
    let local = Local::open(&dir.kek(), DevKek::Allow).unwrap();
    assert_unwraps(&local, &wrapped).await;
}

#[tokio::test]
async fn a_dev_kek_needs_dev() {
    let dir = Dir::new();
    let local = dir.unprotected();
    assert!(local.is_unprotected());
    assert_eq!(local.unlock_need(), UnlockNeed::Nothing);
    let error = Local::open(&dir.kek(), DevKek::Refuse).unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured);
    assert!(
        error.what().contains("unprotected") && error.remedy().contains("--dev"),
        "{error}"
    );
}

#[tokio::test]
async fn lock_forgets_and_unlock_reads_again() {
    let dir = Dir::new();
    let local = dir.unprotected();
    let wrapped = wrap(&local).await;
    local.lock();
    assert_eq!(local.state(), ProviderState::Locked);
    assert!(local.0.state().keks.is_none());
    assert_eq!(
        local
            .unwrap(&context(), &wrapped.0)
            .await
            .unwrap_err()
            .class(),
        Class::Locked
    );
    local.unlock(UnlockSecret::Nothing).await.unwrap();
    assert_unwraps(&local, &wrapped).await;
}

#[tokio::test]
async fn an_unlock_from_before_a_lock_does_not_take_effect() {
    let dir = Dir::new();
    let local = dir.unprotected();
    // As if Argon2id had been running since before the lock.
    let before = local.0.state().lock_count;
    local.lock();
    let error = local.0.unlock(before, &UnlockSecret::Nothing).unwrap_err();
    assert_eq!(error.class(), Class::Locked);
    assert_eq!(local.state(), ProviderState::Locked);
}

#[tokio::test]
async fn argon2id_runs_beside_the_runtime_and_one_at_a_time() {
    let dir = Dir::new();
    drop(dir.protected().await);
    let local = dir.open();
    let mut unlocking = pin!(local.unlock(with_passphrase(RIGHT)));
    let mut task = std::task::Context::from_waker(Waker::noop());
    // The first poll starts the work and returns.
    assert!(matches!(unlocking.as_mut().poll(&mut task), Poll::Pending));
    unlocking.await.unwrap();

    let permit = local.0.slow_work.clone().try_acquire_owned().unwrap();
    let class = local
        .unlock(with_passphrase(RIGHT))
        .await
        .unwrap_err()
        .class();
    assert_eq!(
        class,
        Class::Throttled {
            retry_after: Some(BUSY_RETRY_AFTER)
        }
    );
    drop(permit);
    local.unlock(with_passphrase(RIGHT)).await.unwrap();
}

#[tokio::test]
async fn loose_permissions_refuse_to_start() {
    let dir = Dir::new();
    drop(dir.unprotected());
    for (mode, command) in [
        (0o644, "chmod 0600 "),
        (0o660, "chmod 0600 "),
        (0o606, "chmod 0600 "),
    ] {
        fs::set_permissions(dir.kek(), fs::Permissions::from_mode(mode)).unwrap();
        let error = Local::open(&dir.kek(), DevKek::Allow).unwrap_err();
        assert!(error.what().contains(&format!("{mode:04o}")), "{error}");
        assert!(error.remedy().contains(command), "{error}");
    }
    fs::set_permissions(dir.kek(), fs::Permissions::from_mode(0o600)).unwrap();
    for mode in [0o770, 0o707, 0o1777] {
        fs::set_permissions(dir.directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = Local::open(&dir.kek(), DevKek::Allow).unwrap_err();
        assert!(error.what().contains(&format!("{mode:04o}")), "{error}");
        assert!(error.remedy().contains("chmod go-w "), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_exists_is_not_overwritten() {
    let dir = Dir::new();
    drop(dir.unprotected());
    let before = fs::read(dir.kek()).unwrap();
    assert!(Local::create_unprotected(&dir.kek()).is_err());
    let error = Local::create(&dir.kek(), passphrase(RIGHT), CHEAP)
        .await
        .unwrap_err();
    assert!(error.what().contains("exists already"), "{error}");
    assert_eq!(fs::read(dir.kek()).unwrap(), before);
}

#[tokio::test]
async fn a_tampered_file_is_refused_even_with_its_checksum_mended() {
    let dir = Dir::new();
    drop(dir.protected().await);
    let good = fs::read(dir.kek()).unwrap();
    // (what is changed, the class at the unlock)
    type Change = fn(&mut Protected);
    let table: [(&str, Change, Class); 7] = [
        (
            "ciphertext",
            |file| file.versions[0].ciphertext.0[5] ^= 1,
            Class::Corrupt,
        ),
        (
            "tag",
            |file| file.versions[0].ciphertext.0[47] ^= 1,
            Class::Corrupt,
        ),
        (
            "nonce",
            |file| file.versions[0].nonce.0[0] ^= 1,
            Class::Corrupt,
        ),
        (
            "created",
            |file| file.versions[0].created_unix_ms ^= 1,
            Class::Corrupt,
        ),
        (
            "version",
            |file| file.versions[0].version = 2,
            Class::Corrupt,
        ),
        ("salt", |file| file.salt.0[0] ^= 1, Class::Denied),
        ("passes", |file| file.argon2id.t = 2, Class::Denied),
    ];
    for (what, change, class) in table {
        let mut file = KekFile::parse(&good).unwrap();
        let Keks::Protected(protected) = &mut file.keks else {
            panic!("made with a passphrase")
        };
        change(protected);
        dir.place(&KekFile::new(file.id, file.keks).to_text().unwrap());
        let local = dir.open();
        assert_eq!(
            local
                .unlock(with_passphrase(RIGHT))
                .await
                .unwrap_err()
                .class(),
            class,
            "{what}"
        );
        assert_eq!(local.state(), ProviderState::Locked);
    }
    // The accident is detected before a passphrase is requested, unless the checksum is fixed.
    let mut file: serde_json::Value = serde_json::from_slice(&good).unwrap();
    file["keks"]["protected"]["versions"][0]["created_unix_ms"] = 1.into();
    dir.place(file.to_string().as_bytes());
    assert_eq!(
        Local::open(&dir.kek(), DevKek::Refuse).unwrap_err().class(),
        Class::Corrupt
    );
}

#[tokio::test]
async fn weak_or_excessive_argon2id_is_refused() {
    let dir = Dir::new();
    for (m_kib, t, p) in [
        (65_535, 3, 4),
        (8_000_000, 3, 4),
        (65_536, 0, 4),
        (65_536, 65, 4),
        (65_536, 3, 0),
        (65_536, 3, 17),
    ] {
        let params = Argon2Params { m_kib, t, p };
        let error = Local::create(&dir.kek(), passphrase(RIGHT), params)
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured, "{params:?}");
        let allowed = "use m_kib 65536 to 4194304, t 1 to 64, p 1 to 16";
        assert_eq!(error.remedy(), allowed);
        assert!(error.what().contains("is out of range"), "{error}");
    }
    // The least that the remedy allows.
    drop(dir.protected().await);
    let mut file = KekFile::parse(&fs::read(dir.kek()).unwrap()).unwrap();
    let Keks::Protected(protected) = &mut file.keks else {
        panic!("made with a passphrase")
    };
    protected.argon2id.m_kib = 1024;
    dir.place(&KekFile::new(file.id, file.keks).to_text().unwrap());
    let error = Local::open(&dir.kek(), DevKek::Refuse).unwrap_err();
    assert!(error.what().contains("1024"), "{error}");
}

#[tokio::test]
async fn another_kek_file_is_named_as_the_fault() {
    let dir = Dir::new();
    let local = dir.unprotected();
    let wrapped = wrap(&local).await;
    fs::remove_file(dir.kek()).unwrap();
    let other = dir.unprotected();
    assert_eq!(
        other
            .unwrap(&context(), &wrapped.0)
            .await
            .unwrap_err()
            .class(),
        Class::Misconfigured
    );
    // The first notices that its file was replaced.
    local.lock();
    let error = local.unlock(UnlockSecret::Nothing).await.unwrap_err();
    assert!(error.what().contains("another KEK file"), "{error}");
}

#[tokio::test]
async fn debug_prints_no_key() {
    let dir = Dir::new();
    let local = dir.unprotected();
    let file: serde_json::Value = serde_json::from_slice(&fs::read(dir.kek()).unwrap()).unwrap();
    let key = file["keks"]["unprotected"]["versions"][0]["key"]
        .as_str()
        .unwrap();
    let printed = format!("{local:?}");
    assert!(printed.contains("redacted") && !printed.contains(key));
}

/// Another implementation created the fixture: `tests/data/make_v1.py`.
#[tokio::test]
async fn known_answers_of_format_1() {
    let text = include_bytes!("../../tests/data/kek_v1.json");
    let dir = Dir::new();
    dir.place(text);
    let local = dir.open();
    local
        .unlock(with_passphrase("correct horse battery staple"))
        .await
        .unwrap();
    assert_eq!(
        KekFile::parse(text).unwrap().to_text().unwrap().as_slice(),
        text
    );

    let context = Context {
        cluster: std::array::from_fn(|i| i as u8),
        keyspace: 7,
        generation: 3,
        purpose: Purpose::DataKey,
    };
    let state = local.0.state();
    let keyring = state.keks.as_ref().unwrap();
    for (line, version) in include_str!("../../tests/data/wrapped_v1.hex")
        .lines()
        .zip([1_u32, 2])
    {
        let kek = keyring.find(version).unwrap();
        assert_eq!(kek.expose(), &[version as u8 * 0x11; 32]);
        let names = WrapNames {
            kek_version: version,
            file_id: state.file.unwrap().id,
        };
        let wrapped = seal::wrap_dek(kek, names, &[0xe0 + version as u8; 32], &context, &dek());
        assert_eq!(hex::encode(&wrapped), line, "KEK version {version}");
        assert!(
            seal::unwrap_dek(kek, &context, &wrapped)
                .unwrap()
                .is_same(&dek())
        );
    }
}
