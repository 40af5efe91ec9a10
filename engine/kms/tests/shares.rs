//! A KEK whose secret is split into shares, through its interface, and compared with the reference implementation of
//! SLIP-39.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyway_kms::{
    Class, Context, DevKek, Initialise, KmsError, Local, Passphrase, Provider, ProviderState,
    Purpose, Quorum, SECRET_BYTES, SecretKey, Share, UnlockNeed, UnlockSecret, Unlocked, Wrapped,
    combine_shares, split_secret,
};
use keyway_testkit::tools;

const CONTEXT: Context = Context {
    cluster: [9; 16],
    keyspace: 7,
    generation: 3,
    purpose: Purpose::DataKey,
};

fn dek() -> SecretKey {
    SecretKey::take(&mut [0x5c; SECRET_BYTES])
}

fn shares_of(count: u8, threshold: u8) -> Initialise {
    Initialise::Shares { count, threshold }
}

fn copy(share: &Share) -> Share {
    Share::new(share.expose().into()).unwrap()
}

fn copies(shares: &[Share], which: &[usize]) -> Vec<Share> {
    which.iter().map(|&i| copy(&shares[i])).collect()
}

fn with_passphrase(text: &str) -> UnlockSecret {
    UnlockSecret::Passphrase(Passphrase::new(text.into()).unwrap())
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self(directory)
    }

    fn kek(&self) -> PathBuf {
        self.0.path().join("kek.json")
    }

    fn open(&self) -> Local {
        Local::open_or_uninitialised(&self.kek(), DevKek::Refuse).unwrap()
    }
}

async fn give(local: &Local, share: &Share) -> Result<Unlocked, KmsError> {
    local.unlock(UnlockSecret::Share(copy(share))).await
}

async fn wrap(local: &Local) -> Wrapped {
    local.wrap(&CONTEXT, &dek()).await.unwrap()
}

async fn assert_unwraps(local: &Local, wrapped: &Wrapped) {
    let found = local.unwrap(&CONTEXT, &wrapped.0).await.unwrap();
    assert!(found.is_same(&dek()));
}

#[tokio::test]
async fn three_of_five_people_open_what_five_were_given() {
    let dir = Dir::new();
    let local = dir.open();
    assert_eq!(local.state(), ProviderState::Locked);
    assert_eq!(local.unlock_need(), UnlockNeed::Initialise);
    let error = local.wrap(&CONTEXT, &dek()).await.unwrap_err();
    assert_eq!(error.class(), Class::Locked);
    assert!(error.remedy().contains("keyway kms init"), "{error}");

    let shares = local.initialise(shares_of(5, 3)).await.unwrap();
    assert_eq!(shares.len(), 5);
    assert_eq!(local.state(), ProviderState::Unlocked);
    assert!(!local.is_unprotected());
    let mode = fs::metadata(dir.kek()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let wrapped = wrap(&local).await;
    drop(local);

    // The constructor that accepts only existing files reads it as well.
    let local = Local::open(&dir.kek(), DevKek::Refuse).unwrap();
    for (share, given) in [(&shares[3], 1), (&shares[0], 2)] {
        let threshold = 3;
        assert_eq!(
            give(&local, share).await.unwrap(),
            Unlocked::MoreShares { given, threshold }
        );
        assert_eq!(local.unlock_need(), UnlockNeed::Shares { given, threshold });
        assert_eq!(local.state(), ProviderState::Locked);
        let error = local.unwrap(&CONTEXT, &wrapped.0).await.unwrap_err();
        assert_eq!(error.class(), Class::Locked);
    }
    assert_eq!(give(&local, &shares[4]).await.unwrap(), Unlocked::Open);
    assert_unwraps(&local, &wrapped).await;
    let need = UnlockNeed::Shares {
        given: 0,
        threshold: 3,
    };
    assert_eq!(local.unlock_need(), need);
}

#[tokio::test]
async fn shares_that_come_at_the_same_moment_all_count() {
    let dir = Dir::new();
    let shares = dir.open().initialise(shares_of(5, 3)).await.unwrap();
    let local = dir.open();
    let together = tokio::join!(
        give(&local, &shares[0]),
        give(&local, &shares[2]),
        give(&local, &shares[4]),
    );
    let answers = [together.0, together.1, together.2].map(Result::unwrap);
    let more = |given| Unlocked::MoreShares {
        given,
        threshold: 3,
    };
    for expected in [more(1), more(2), Unlocked::Open] {
        assert!(answers.contains(&expected), "{answers:?}");
    }
}

#[tokio::test]
async fn a_share_that_does_not_count_is_denied_and_the_others_are_kept() {
    let dir = Dir::new();
    let shares = dir.open().initialise(shares_of(3, 2)).await.unwrap();
    let foreign = Dir::new().open().initialise(shares_of(4, 3)).await.unwrap();
    let local = dir.open();
    give(&local, &shares[1]).await.unwrap();
    let mut words: Vec<&str> = shares[0].expose().split(' ').collect();
    words[7] = "hunter";
    let table = [
        (copy(&shares[1]), "share 2 was given already"),
        (copy(&foreign[0]), "another set"),
        (Share::new(words.join(" ").into()).unwrap(), "word 8"),
        (Share::new(b"just some words".to_vec()).unwrap(), "3 words"),
    ];
    for (share, reason) in table {
        let error = give(&local, &share).await.unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{error}");
        assert!(error.what().contains(reason), "{error}");
        let need = UnlockNeed::Shares {
            given: 1,
            threshold: 2,
        };
        assert_eq!(local.unlock_need(), need, "{error}");
    }
    assert_eq!(give(&local, &shares[2]).await.unwrap(), Unlocked::Open);
    // Unlocking an unlocked KMS asks for the quorum again, and does not lock it.
    give(&local, &shares[0]).await.unwrap();
    assert_eq!(local.state(), ProviderState::Unlocked);
    assert_eq!(give(&local, &shares[2]).await.unwrap(), Unlocked::Open);
}

#[tokio::test]
async fn each_kind_of_file_names_the_secret_that_it_wants() {
    let dir = Dir::new();
    let shares = dir.open().initialise(shares_of(3, 2)).await.unwrap();
    let local = dir.open();
    let error = local
        .unlock(with_passphrase("correct horse"))
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured);
    assert!(
        error.what().contains("2 of its 3 shares") && error.what().contains("a passphrase"),
        "{error}"
    );
    let error = local.unlock(UnlockSecret::Nothing).await.unwrap_err();
    assert_eq!(error.class(), Class::Locked);
    assert!(error.what().contains("2 of its 3 shares"), "{error}");

    let dir = Dir::new();
    let passphrase = Passphrase::new(b"correct horse".to_vec()).unwrap();
    let local = dir.open();
    let made = local
        .initialise(Initialise::Passphrase(passphrase))
        .await
        .unwrap();
    assert!(made.is_empty());
    assert_eq!(local.state(), ProviderState::Unlocked);
    let wrapped = wrap(&local).await;
    let local = dir.open();
    assert_eq!(local.unlock_need(), UnlockNeed::Passphrase);
    let error = give(&local, &shares[0]).await.unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured);
    assert!(
        error.what().contains("its passphrase") && error.what().contains("a share"),
        "{error}"
    );
    local
        .unlock(with_passphrase("correct horse"))
        .await
        .unwrap();
    assert_unwraps(&local, &wrapped).await;
}

#[tokio::test]
async fn a_file_that_is_there_is_never_overwritten() {
    let dir = Dir::new();
    let (local, late) = (dir.open(), dir.open());
    let shares = local.initialise(shares_of(3, 2)).await.unwrap();
    let before = fs::read(dir.kek()).unwrap();
    for again in [&local, &late, &dir.open()] {
        let error = again.initialise(shares_of(3, 2)).await.unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured);
        assert!(error.what().contains("exists already"), "{error}");
        assert_eq!(fs::read(dir.kek()).unwrap(), before);
    }
    // A provider opened before there was a file uses it at the unlock.
    assert_eq!(late.unlock_need(), UnlockNeed::Initialise);
    give(&late, &shares[0]).await.unwrap();
    assert_eq!(give(&late, &shares[1]).await.unwrap(), Unlocked::Open);
    // A file that was removed is not replaced by another one either: its keys are in use.
    fs::remove_file(dir.kek()).unwrap();
    let error = late.initialise(shares_of(3, 2)).await.unwrap_err();
    assert!(error.what().contains("is gone"), "{error}");
    assert!(!dir.kek().exists());
}

#[tokio::test]
async fn impossible_quorums_make_no_file() {
    let dir = Dir::new();
    let local = dir.open();
    for (count, threshold) in [(0, 0), (3, 0), (2, 3), (3, 1), (17, 2)] {
        let error = local
            .initialise(shares_of(count, threshold))
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured);
        assert!(!dir.kek().exists(), "{threshold} of {count}");
    }
    let error = local.unlock(UnlockSecret::Nothing).await.unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured);
    assert!(error.what().contains("no KEK yet"), "{error}");
    let shares = local.initialise(shares_of(1, 1)).await.unwrap();
    let local = dir.open();
    assert_eq!(give(&local, &shares[0]).await.unwrap(), Unlocked::Open);
}

#[test]
fn every_quorum_size_goes_through_words_and_back() {
    let secret = dek();
    for count in 1..=16 {
        for threshold in 1..=count {
            let Ok(quorum) = Quorum::new(threshold, count) else {
                continue;
            };
            let shares = split_secret(&secret, quorum).unwrap();
            // Every second one from the end first: not the order in which they were created.
            let mut order: Vec<usize> = (0..shares.len()).rev().step_by(2).collect();
            order.extend((0..shares.len()).filter(|i| (shares.len() - 1 - i) % 2 == 1));
            order.truncate(usize::from(threshold));
            let found = combine_shares(&copies(&shares, &order)).unwrap();
            assert!(found.is_same(&secret), "{threshold} of {count}");
            order.pop();
            let error = combine_shares(&copies(&shares, &order)).unwrap_err();
            assert_eq!(error.class(), Class::Denied, "{threshold} of {count}");
        }
    }
}

fn hex(secret: &SecretKey) -> String {
    let digits = secret.expose().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Runs `shamir` with these lines on its standard input, and returns its output.
fn shamir(program: &Path, arguments: &[&str], lines: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    printed
}

#[test]
fn the_reference_implementation_recovers_our_shares() {
    let Some(program) = tools::path_or_skip("shamir-mnemonic", &["shamir/bin/shamir"]) else {
        return;
    };
    let secret = SecretKey::take(&mut std::array::from_fn(|i| i as u8 * 7));
    for (threshold, count) in [(1, 1), (2, 3), (5, 7)] {
        let shares = split_secret(&secret, Quorum::new(threshold, count).unwrap()).unwrap();
        let last = shares.iter().rev().take(usize::from(threshold));
        let lines: String = last.map(|share| format!("{}\n", share.expose())).collect();
        let printed = shamir(&program, &["recover"], &lines);
        assert!(
            printed.contains(&hex(&secret)),
            "{threshold} of {count}: {printed}"
        );
    }
}

#[test]
fn we_recover_the_shares_of_the_reference_implementation() {
    let Some(program) = tools::path_or_skip("shamir-mnemonic", &["shamir/bin/shamir"]) else {
        return;
    };
    let secret = SecretKey::take(&mut std::array::from_fn(|i| 255 - i as u8));
    for (extendable, exponent) in [("-x", "0"), ("-X", "1"), ("-x", "3")] {
        let master = hex(&secret);
        let arguments = ["create", "3of5", extendable, "-E", exponent, "-S", &master];
        let printed = shamir(&program, &arguments, "");
        let shares: Vec<Share> = printed
            .lines()
            .map(str::trim)
            .filter(|line| line.split(' ').count() == 33)
            .map(|line| Share::new(line.into()).unwrap())
            .collect();
        assert_eq!(shares.len(), 5, "{printed}");
        let found = combine_shares(&copies(&shares, &[4, 1, 2])).unwrap();
        assert!(found.is_same(&secret), "{extendable} {exponent}");
    }
}
