//! Tests of the local KMS whose secret is split into shares, where they need access to internals.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::kek_file::InShares;
use super::quorum::QUORUM_TIMEOUT;
use super::*;

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

    fn place(&self, file: KekFile) {
        let file = KekFile::new(file.id, file.keks);
        fs::write(self.kek(), file.to_text().unwrap()).unwrap();
        fs::set_permissions(self.kek(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn parsed(&self) -> KekFile {
        KekFile::parse(&fs::read(self.kek()).unwrap()).unwrap()
    }

    fn open(&self) -> Local {
        Local::open_or_uninitialised(&self.kek(), DevKek::Refuse).unwrap()
    }

    async fn initialised(&self, threshold: u8, count: u8) -> Vec<Share> {
        let how = Initialise::Shares { count, threshold };
        self.open().initialise(how).await.unwrap()
    }
}

async fn give(local: &Local, share: &Share) -> Result<Unlocked, KmsError> {
    let copy = Share::new(share.expose().into()).unwrap();
    local.unlock(UnlockSecret::Share(copy)).await
}

fn given(local: &Local) -> u8 {
    match local.unlock_need() {
        UnlockNeed::Shares { given, .. } => given,
        other => panic!("{other:?}"),
    }
}

/// Returns whether shares are in memory, without the expiry that every other call triggers.
fn held(local: &Local) -> bool {
    local.0.state().gathering.deadline().is_some()
}

#[tokio::test]
async fn a_lock_wipes_the_shares_that_wait() {
    let dir = Dir::new();
    let shares = dir.initialised(3, 3).await;
    let local = dir.open();
    give(&local, &shares[0]).await.unwrap();
    give(&local, &shares[1]).await.unwrap();
    assert!(held(&local));
    local.lock();
    assert!(!held(&local));
    assert_eq!(given(&local), 0);
    // A share in flight when the lock arrives is not kept.
    let secret = UnlockSecret::Share(Share::new(shares[2].expose().into()).unwrap());
    let before = local.0.state().lock_count - 1;
    let error = local.0.unlock(before, &secret).unwrap_err();
    assert_eq!(error.class(), Class::Locked);
    assert!(!held(&local));
}

#[tokio::test(start_paused = true)]
async fn shares_that_wait_too_long_are_wiped_though_nobody_asks() {
    let dir = Dir::new();
    let shares = dir.initialised(3, 3).await;
    let local = dir.open();
    give(&local, &shares[0]).await.unwrap();
    tokio::time::advance(QUORUM_TIMEOUT - Duration::from_secs(1)).await;
    give(&local, &shares[1]).await.unwrap();
    assert!(held(&local));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!held(&local));
    assert!(!local.0.state().has_wiper);

    // The next ones also expire.
    give(&local, &shares[2]).await.unwrap();
    assert!(local.0.state().has_wiper);
    tokio::time::sleep(QUORUM_TIMEOUT + Duration::from_secs(1)).await;
    assert!(!held(&local));
}

#[tokio::test]
async fn shares_that_fit_each_other_and_not_the_file_are_denied_and_wiped() {
    let dir = Dir::new();
    dir.initialised(2, 3).await;
    // Shares of another file whose terms happen to be the same: one in 2^15.
    let other_dir = Dir::new();
    let others = other_dir.initialised(2, 3).await;
    let Keks::Shares(other) = other_dir.parsed().keks else {
        panic!("made with shares")
    };
    let mut file = dir.parsed();
    let Keks::Shares(shares) = &mut file.keks else {
        panic!("made with shares")
    };
    shares.identifier = other.identifier;
    dir.place(file);
    let local = dir.open();
    give(&local, &others[0]).await.unwrap();
    let error = give(&local, &others[1]).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied);
    assert!(error.what().contains("do not open"), "{error}");
    assert_eq!(local.state(), ProviderState::Locked);
    assert!(!held(&local));
}

/// Returns a share of another set whose words name this file's set: correct except for the value.
fn forged(dir: &Dir, quorum: (u8, u8), number: usize) -> Share {
    let Keks::Shares(file) = dir.parsed().keks else {
        panic!("made with shares")
    };
    let secret = SecretKey::take(&mut [1; 32]);
    let quorum = crate::Quorum::new(quorum.0, quorum.1).unwrap();
    let (_, mut members) = crate::shares::split(&SystemRandom::new(), &secret, quorum).unwrap();
    members[number].terms = file.terms();
    members[number].to_share().unwrap()
}

/// One forged share as the last of three wiped the two genuine ones, so that the holder of one share could keep the
/// others from ever opening the file.
#[tokio::test]
async fn a_share_that_does_not_fit_leaves_the_quorum_as_it_was() {
    let dir = Dir::new();
    let shares = dir.initialised(3, 5).await;
    let local = dir.open();
    give(&local, &shares[0]).await.unwrap();
    give(&local, &shares[1]).await.unwrap();
    // One with an unused number, then one with the number of a genuine share.
    for number in [2, 0] {
        let error = give(&local, &forged(&dir, (3, 5), number))
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Denied);
        assert!(error.what().contains("cannot be determined"), "{error}");
        assert_eq!((local.state(), given(&local)), (ProviderState::Locked, 2));
    }
    assert_eq!(give(&local, &shares[2]).await.unwrap(), Unlocked::Open);
    assert!(!held(&local));
}

/// The forged share comes first: the genuine one with its number is not refused because of it.
#[tokio::test]
async fn a_share_that_does_not_fit_takes_no_right_shares_place() {
    let dir = Dir::new();
    let shares = dir.initialised(3, 5).await;
    let local = dir.open();
    give(&local, &forged(&dir, (3, 5), 1)).await.unwrap();
    give(&local, &shares[0]).await.unwrap();
    give(&local, &shares[1]).await.unwrap();
    let error = give(&local, &shares[1]).await.unwrap_err();
    assert!(error.what().contains("given already"), "{error}");
    assert_eq!(give(&local, &shares[4]).await.unwrap(), Unlocked::Open);
    assert!(!held(&local));
}

#[tokio::test]
async fn a_tampered_file_is_refused_even_with_its_checksum_mended() {
    let dir = Dir::new();
    let shares = dir.initialised(2, 3).await;
    type Change = fn(&mut InShares);
    // (what is changed, the class at the unlock)
    let table: [(&str, Change, Class); 6] = [
        (
            "ciphertext",
            |file| file.versions[0].ciphertext.0[5] ^= 1,
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
        ("count", |file| file.count = 4, Class::Corrupt),
        (
            "commitment",
            |file| file.commitment.0[0] ^= 1,
            Class::Denied,
        ),
        ("identifier", |file| file.identifier ^= 1, Class::Denied),
    ];
    let good = fs::read(dir.kek()).unwrap();
    for (what, change, class) in table {
        let mut file = KekFile::parse(&good).unwrap();
        let Keks::Shares(in_shares) = &mut file.keks else {
            panic!("made with shares")
        };
        change(in_shares);
        dir.place(file);
        let local = dir.open();
        let error = match give(&local, &shares[0]).await {
            Ok(_) => give(&local, &shares[1]).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.class(), class, "{what}: {error}");
        assert_eq!(local.state(), ProviderState::Locked);
    }
}

#[tokio::test]
async fn impossible_figures_in_the_file_are_refused() {
    let dir = Dir::new();
    dir.initialised(2, 3).await;
    type Change = fn(&mut InShares);
    let table: [(&str, Change); 4] = [
        ("4 of 3", |file| file.threshold = 4),
        ("2 of 17", |file| file.count = 17),
        ("identifier is 32768", |file| file.identifier = 0x8000),
        ("exponent is 7", |file| file.iteration_exponent = 7),
    ];
    let good = fs::read(dir.kek()).unwrap();
    for (reason, change) in table {
        let mut file = KekFile::parse(&good).unwrap();
        let Keks::Shares(in_shares) = &mut file.keks else {
            panic!("made with shares")
        };
        change(in_shares);
        dir.place(file);
        let error = Local::open_or_uninitialised(&dir.kek(), DevKek::Refuse).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        assert!(error.what().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn the_file_and_debug_print_hold_nothing_of_the_secret() {
    let dir = Dir::new();
    let shares = dir.initialised(2, 3).await;
    let secret = crate::combine_shares(&[
        Share::new(shares[0].expose().into()).unwrap(),
        Share::new(shares[2].expose().into()).unwrap(),
    ])
    .unwrap();
    let text = String::from_utf8(fs::read(dir.kek()).unwrap()).unwrap();
    assert!(!text.contains(&hex::encode(secret.expose())));
    let local = dir.open();
    give(&local, &shares[1]).await.unwrap();
    let printed = format!("{local:?} {shares:?}");
    assert!(printed.contains("Member(share 2, redacted)"), "{printed}");
    assert!(printed.contains("Share(redacted)"));
}

#[tokio::test]
async fn a_lock_during_the_initialisation_leaves_a_locked_file() {
    let dir = Dir::new();
    let local = dir.open();
    let before = local.0.state().lock_count;
    local.lock();
    let how = Initialise::Shares {
        count: 3,
        threshold: 2,
    };
    let shares = local.0.initialise(before, how).unwrap();
    assert_eq!((shares.len(), local.state()), (3, ProviderState::Locked));
    give(&local, &shares[0]).await.unwrap();
    assert_eq!(give(&local, &shares[1]).await.unwrap(), Unlocked::Open);
}

/// Other implementations created the fixtures: `tests/data/make_shares_v1.py`.
#[tokio::test]
async fn known_answers_of_a_file_in_shares() {
    let text = include_bytes!("../../tests/data/kek_shares_v1.json");
    let shares: Vec<Share> = include_str!("../../tests/data/shares_v1.txt")
        .lines()
        .map(|line| Share::new(line.into()).unwrap())
        .collect();
    let dir = Dir::new();
    dir.place(KekFile::parse(text).unwrap());
    assert_eq!(fs::read(dir.kek()).unwrap(), text);
    for (first, second) in [(0, 1), (2, 0), (1, 2)] {
        let local = dir.open();
        give(&local, &shares[first]).await.unwrap();
        assert_eq!(give(&local, &shares[second]).await.unwrap(), Unlocked::Open);
        let state = local.0.state();
        for version in [1, 2] {
            let kek = state.keks.as_ref().unwrap().find(version).unwrap();
            assert_eq!(kek.expose(), &[version as u8 * 0x11; 32]);
        }
    }
}
