use std::cell::Cell;

use keyway_kms::{
    Initialise, NewDek, ProviderState, SecretKey, Share, UnlockNeed, UnlockSecret, Unlocked,
    UnwrappedDek,
};

use super::*;
use crate::clock;
use crate::metrics::snapshot::KmsSnapshot;
use keyway_node::catalogue::{ChangeAuthor, NewKeyspace, SettingsChange};

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

fn change(line: &str) -> SettingsChange {
    SettingsChange::parse(line.trim().split_once('=')).unwrap()
}

fn new<'a>(name: &'a str, change: &'a SettingsChange) -> NewKeyspace<'a> {
    NewKeyspace {
        name,
        change,
        kms: "bao",
        record: b"d",
    }
}

/// A disk in memory.
#[derive(Default)]
struct Disk {
    file: Mutex<Option<String>>,
    marks: Mutex<BTreeMap<String, u64>>,
    has_keys: bool,
}

impl Place for Disk {
    fn path(&self) -> PathBuf {
        catalogue::FILE.into()
    }

    fn read(&self) -> io::Result<String> {
        let file = self.file.lock().unwrap();
        file.clone().ok_or(io::ErrorKind::NotFound.into())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        *self.file.lock().unwrap() = Some(text);
        Ok(())
    }

    fn mark(&self, name: &str) -> u64 {
        let marks = self.marks.lock().unwrap();
        marks.get(name).copied().unwrap_or(0)
    }

    fn raise_marks(&self, marks: &[(&str, u64)]) -> io::Result<()> {
        let mut held = self.marks.lock().unwrap();
        for (name, value) in marks {
            let mark = held.entry((*name).to_owned()).or_default();
            *mark = (*mark).max(*value);
        }
        Ok(())
    }

    fn has_keys(&self) -> io::Result<bool> {
        Ok(self.has_keys)
    }
}

impl Disk {
    fn document(&self) -> Value {
        serde_json::from_str(&self.read().unwrap()).unwrap()
    }

    fn put(&self, document: &Value) {
        self.write(document.to_string().as_bytes()).unwrap();
    }
}

fn open(disk: &Arc<Disk>) -> (CatalogueFile, Catalogue) {
    CatalogueFile::read(Arc::clone(disk) as _, None).unwrap()
}

fn refused(disk: &Arc<Disk>, accepted: Option<u64>) -> String {
    match CatalogueFile::read(Arc::clone(disk) as _, accepted) {
        Ok(_) => panic!("it was read"),
        Err(why) => why,
    }
}

fn by() -> ChangeAuthor {
    ChangeAuthor::server(clock::moment())
}

/// A file with one keyspace at the KMS `bao`, sealed.
fn sealed(kms: &FakeKms) -> Arc<Disk> {
    let disk = Arc::new(Disk::default());
    let (file, mut catalogue) = open(&disk);
    assert!(file.is_new());
    check(&file, kms).unwrap();
    catalogue
        .create(new("shop", &change("allow:uid:7=all\n")), &by())
        .unwrap();
    file.write(&catalogue).unwrap();
    disk
}

#[test]
fn what_a_server_has_written_is_checked_once_and_sealed_again_at_each_change() {
    let kms = FakeKms::default();
    let disk = sealed(&kms);
    for _ in 0..3 {
        let (file, mut catalogue) = open(&disk);
        assert!(!file.is_new());
        assert_eq!(check(&file, &kms), Ok(Checked::Already));
        kms.is_away.set(true);
        assert_eq!(
            check(&file, &kms),
            Ok(Checked::Already),
            "once in a process"
        );
        kms.is_away.set(false);
        catalogue
            .set(1, &change("soft_ttl_ms=7000\n"), &by())
            .unwrap();
        file.write(&catalogue).unwrap();
    }
    assert_eq!(kms.made.get(), 1);
}

#[test]
fn what_was_tightened_without_the_kms_stays_so_and_is_sealed_when_it_answers() {
    let kms = FakeKms::default();
    let disk = sealed(&kms);
    {
        let (file, mut catalogue) = open(&disk);
        kms.is_away.set(true);
        assert!(check(&file, &kms).is_err());
        catalogue.set_locked(1, true, &by()).unwrap();
        catalogue
            .set(1, &change("allow:uid:7=mac\n"), &by())
            .unwrap();
        file.write(&catalogue).unwrap();
        kms.is_away.set(false);
    }
    for checked in [Checked::Anew, Checked::Already] {
        let (file, catalogue) = open(&disk);
        let shop = catalogue.keyspace(1).unwrap();
        assert!(shop.locked);
        assert_eq!(json!(shop.policy), json!({ "uid:7": "mac" }));
        assert_eq!(check(&file, &kms), Ok(checked));
        file.write(&catalogue).unwrap();
    }
}

/// What an unsealed change grants is not accepted, and the seal detects changes of the sealed part.
#[test]
fn what_was_loosened_without_the_kms_does_not_count() {
    let kms = FakeKms::default();
    let disk = sealed(&kms);
    let mut document = disk.document();
    document["seals"]["bao"]["was"] = document["keyspaces"].clone();
    document["keyspaces"]["1"]["policy"] = json!({ "uid:7": "all", "anonymous": "all" });
    document["keyspaces"]["1"]["settings"] = json!({ "hard_ttl_ms": "900000000" });
    disk.put(&document);
    {
        let (file, catalogue) = open(&disk);
        let shop = catalogue.keyspace(1).unwrap();
        assert_eq!(json!(shop.policy), json!({ "uid:7": "all" }));
        assert_eq!(shop.settings().hard_ttl_ms, 3_600_000);
        check(&file, &kms).unwrap();
    }
    document["seals"]["bao"]["was"]["1"]["policy"] = json!({ "anonymous": "all" });
    disk.put(&document);
    let (file, _) = open(&disk);
    let refused = check(&file, &kms).unwrap_err();
    assert_eq!(refused.class(), Class::Corrupt);
    kms.is_away.set(true);
    assert_eq!(
        check(&file, &kms).unwrap_err().class(),
        Class::Corrupt,
        "permanently"
    );
}

#[test]
fn a_broken_section_is_not_sealed_by_the_next_write() {
    let kms = FakeKms::default();
    let disk = sealed(&kms);
    let text = disk.read().unwrap().replace("uid:7", "uid:8");
    disk.write(text.as_bytes()).unwrap();
    for _ in 0..2 {
        let (file, catalogue) = open(&disk);
        assert!(check(&file, &kms).is_err());
        file.write(&catalogue).unwrap();
    }
}

#[test]
fn a_file_that_is_gone_or_older_is_refused_and_ids_are_not_used_twice() {
    let kms = FakeKms::default();
    let disk = sealed(&kms);
    let older = disk.document();
    let (file, mut catalogue) = open(&disk);
    check(&file, &kms).unwrap();
    catalogue.create(new("more", &change("")), &by()).unwrap();
    file.write(&catalogue).unwrap();
    let newest = disk.document();

    disk.put(&older);
    let why = refused(&disk, None);
    assert!(why.contains("--accept-catalogue 1"), "{why}");
    refused(&disk, Some(7));
    let mut raised = older.clone();
    raised["revision"] = newest["revision"].clone();
    disk.put(&raised);
    assert!(refused(&disk, None).contains("bao"));

    disk.put(&older);
    let (file, mut catalogue) = CatalogueFile::read(Arc::clone(&disk) as _, Some(1)).unwrap();
    assert_eq!(
        catalogue.next_id(),
        3,
        "the id of the keyspace that is gone"
    );
    check(&file, &kms).unwrap();
    catalogue.create(new("other", &change("")), &by()).unwrap();
    file.write(&catalogue).unwrap();
    assert!(disk.document()["revision"].as_u64() > newest["revision"].as_u64());
    check(&open(&disk).0, &kms).unwrap();

    *disk.file.lock().unwrap() = None;
    assert!(refused(&disk, None).contains("is missing"));
    let with_keys = Disk {
        has_keys: true,
        ..Disk::default()
    };
    assert!(refused(&Arc::new(with_keys), None).contains("is missing"));
}

/// A KMS may only unwrap: what was created before there were seals is still served.
#[test]
fn the_first_seal_is_made_when_the_kms_can_make_it() {
    let kms = FakeKms::default();
    let disk = Arc::new(Disk::default());
    let (file, mut catalogue) = open(&disk);
    catalogue.create(new("shop", &change("")), &by()).unwrap();
    file.write(&catalogue).unwrap();
    kms.is_away.set(true);
    let optional = file.check("bao", &kms, FirstSeal::Optional);
    assert_eq!(
        futures_lite::future::block_on(optional),
        Ok(Checked::Already)
    );
    assert!(check(&file, &kms).is_err());
    kms.is_away.set(false);
    assert_eq!(check(&file, &kms), Ok(Checked::Anew));
    file.write(&catalogue).unwrap();
    assert_eq!(check(&open(&disk).0, &kms), Ok(Checked::Already));
}
