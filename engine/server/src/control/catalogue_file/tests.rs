use std::cell::Cell;
use std::fs;
use std::path::Path;

use keyway_kms::{
    Initialise, NewDek, ProviderState, SecretKey, Share, UnlockNeed, UnlockSecret, Unlocked,
    UnwrappedDek,
};

use super::*;
use crate::clock;
use crate::control::catalogue::By;
use crate::metrics::snapshot::KmsSnapshot;

/// A KMS whose wrapped keys are the keys, and which can be away.
#[derive(Default)]
struct FakeKms {
    made: Cell<u8>,
    is_away: Cell<bool>,
}

impl FakeKms {
    fn answer(&self) -> Result<(), KmsError> {
        match self.is_away.get() {
            false => Ok(()),
            true => Err(KmsError::new(
                Class::Unavailable { retry_after: None },
                "away",
                "wait",
            )),
        }
    }
}

fn key(number: u8) -> Arc<SecretKey> {
    Arc::new(SecretKey::take(&mut [number; 32]))
}

impl Kms for FakeKms {
    async fn new_dek(&self, _: u32, _: u32) -> Result<NewDek, KmsError> {
        self.answer()?;
        self.made.set(self.made.get() + 1);
        Ok(NewDek {
            dek: key(self.made.get()),
            record: vec![self.made.get()],
            sent_at_us: 0,
        })
    }

    async fn wrap_dek(&self, _: u32, _: u32, _: &SecretKey) -> Result<NewDek, KmsError> {
        self.new_dek(0, 0).await
    }

    async fn unwrap_dek(&self, _: u32, _: u32, record: &[u8]) -> Result<UnwrappedDek, KmsError> {
        self.answer()?;
        Ok(UnwrappedDek {
            dek: key(record[0]),
            sent_at_us: 0,
        })
    }

    async fn unlock(&self, _: Option<u32>, _: UnlockSecret) -> Result<Unlocked, KmsError> {
        Ok(Unlocked::Open)
    }

    async fn initialise(&self, _: Initialise) -> Result<Vec<Share>, KmsError> {
        Ok(Vec::new())
    }

    fn lock(&self) {}

    fn state(&self) -> ProviderState {
        ProviderState::Unlocked
    }

    fn unlock_need(&self) -> UnlockNeed {
        UnlockNeed::Nothing
    }

    fn figures(&self, _: &str) -> KmsSnapshot {
        KmsSnapshot::default()
    }
}

fn check(file: &CatalogueFile, kms: &FakeKms) -> Result<Checked, KmsError> {
    futures_lite::future::block_on(file.check("bao", kms, FirstSeal::Needed))
}

fn open(path: &Path) -> (CatalogueFile, Catalogue) {
    let dir = keyway_store::DataDir::open(path, 1).unwrap();
    CatalogueFile::read(Arc::new(dir), None).unwrap()
}

fn by() -> By {
    By::server(clock::moment())
}

/// A file with one keyspace at the KMS `bao`, sealed.
fn sealed(path: &Path, kms: &FakeKms) {
    let (file, mut catalogue) = open(path);
    assert!(file.is_new());
    check(&file, kms).unwrap();
    catalogue
        .create("shop", "allow:uid:7=all\n", "bao", b"d", &by())
        .unwrap();
    file.write(&catalogue).unwrap();
}

#[test]
fn what_a_server_has_written_is_checked_once_and_sealed_again_at_each_change() {
    let dir = tempfile::tempdir().unwrap();
    let (path, kms) = (dir.path().join("data"), FakeKms::default());
    sealed(&path, &kms);
    for _ in 0..3 {
        let (file, mut catalogue) = open(&path);
        assert!(!file.is_new());
        assert_eq!(check(&file, &kms), Ok(Checked::Already));
        kms.is_away.set(true);
        assert_eq!(
            check(&file, &kms),
            Ok(Checked::Already),
            "once in a process"
        );
        kms.is_away.set(false);
        catalogue.set(1, "soft_ttl_ms=7000\n", None, &by()).unwrap();
        file.write(&catalogue).unwrap();
    }
    assert_eq!(kms.made.get(), 1);
}

#[test]
fn what_was_tightened_without_the_kms_stays_so_and_is_sealed_when_it_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (path, kms) = (dir.path().join("data"), FakeKms::default());
    sealed(&path, &kms);
    {
        let (file, mut catalogue) = open(&path);
        kms.is_away.set(true);
        assert!(check(&file, &kms).is_err());
        catalogue.set_locked(1, true, &by()).unwrap();
        catalogue.set(1, "allow:uid:7=mac\n", None, &by()).unwrap();
        file.write(&catalogue).unwrap();
        kms.is_away.set(false);
    }
    for checked in [Checked::Anew, Checked::Already] {
        let (file, catalogue) = open(&path);
        let shop = catalogue.keyspace(1).unwrap();
        assert!(shop.locked);
        assert_eq!(shop.policy.iter().collect::<Vec<_>>(), [("uid:7", "mac")]);
        assert_eq!(check(&file, &kms), Ok(checked));
        file.write(&catalogue).unwrap();
    }
}

/// What an unsealed change gives is not taken, whoever made it, and the seal finds what was made of the sealed part.
#[test]
fn what_was_loosened_without_the_kms_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (path, kms) = (dir.path().join("data"), FakeKms::default());
    sealed(&path, &kms);
    let text = fs::read_to_string(path.join(catalogue::FILE)).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    document["seals"]["bao"]["was"] = document["keyspaces"].clone();
    document["keyspaces"]["1"]["policy"] = json!({ "uid:7": "all", "anonymous": "all" });
    document["keyspaces"]["1"]["settings"] = json!({ "hard_ttl_ms": "900000000" });
    fs::write(path.join(catalogue::FILE), document.to_string()).unwrap();
    {
        let (file, catalogue) = open(&path);
        let shop = catalogue.keyspace(1).unwrap();
        assert_eq!(shop.policy.iter().collect::<Vec<_>>(), [("uid:7", "all")]);
        assert_eq!(shop.settings().unwrap().hard_ttl_ms, 3_600_000);
        check(&file, &kms).unwrap();
    }
    document["seals"]["bao"]["was"]["1"]["policy"] = json!({ "anonymous": "all" });
    fs::write(path.join(catalogue::FILE), document.to_string()).unwrap();
    let (file, _) = open(&path);
    let refused = check(&file, &kms).unwrap_err();
    assert_eq!(refused.class(), Class::Corrupt);
    kms.is_away.set(true);
    assert_eq!(
        check(&file, &kms).unwrap_err().class(),
        Class::Corrupt,
        "for good"
    );
}

#[test]
fn a_broken_section_is_not_sealed_by_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let (path, kms) = (dir.path().join("data"), FakeKms::default());
    sealed(&path, &kms);
    let text = fs::read_to_string(path.join(catalogue::FILE)).unwrap();
    fs::write(path.join(catalogue::FILE), text.replace("uid:7", "uid:8")).unwrap();
    for _ in 0..2 {
        let (file, catalogue) = open(&path);
        assert!(check(&file, &kms).is_err());
        file.write(&catalogue).unwrap();
    }
}
