//! `keyspaces.json` on the disk: authenticated, never older than it has been, and detected as missing.
//!
//! ```text
//! read ─▶ revision and seals against the manifest's marks ─▶ refused: an older one, or none where there was one
//!          │
//!          ▼ for each KMS, as soon as it answers, and before it gives a DEK
//! check ─▶ its section against its seal ─▶ refused: not written by a server
//! write ─▶ the file under the next revision, sections resealed, then the marks
//! ```
//!
//! What is detected, and what is not, is in `docs/THREATS.md`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyway_kms::{Class, KmsError, is_sealed_data_key};
pub use keyway_node::control::FirstSeal;
use serde_json::{Map, Value, json};

use super::catalogue::{self, Catalogue, FIRST_GENERATION};
use super::catalogue_text::Texts;
use super::kms::Kms;
use super::seal::{Seal, SealKey, section_of};

/// Marks in the manifest: the file's revision, the id that the next keyspace gets, and, with a KMS's name, the revision
/// of the seal of its section.
const REVISION_MARK: &str = "catalogue.revision";
const NEXT_ID_MARK: &str = "catalogue.next_id";
const SEALED_MARK: &str = "catalogue.sealed.";

/// The keys that seal sections belong to no keyspace.
const NO_KEYSPACE: u32 = 0;

/// Where the file lies, and where it is marked how far it has come.
pub trait Place: Send + Sync {
    /// The file's path, for messages.
    fn path(&self) -> PathBuf;

    /// Reads the file. [`io::ErrorKind::NotFound`]: there is none.
    fn read(&self) -> io::Result<String>;

    /// Replaces the file as a whole, durably.
    fn write(&self, bytes: &[u8]) -> io::Result<()>;

    /// How high something was marked; 0 if it never was.
    fn mark(&self, name: &str) -> u64;

    /// Marks how far things have come, durably; a mark that is higher stays.
    fn raise_marks(&self, marks: &[(&str, u64)]) -> io::Result<()>;

    /// Whether there are keys.
    fn has_keys(&self) -> io::Result<bool>;
}

/// The file, and what is known of its seals.
pub struct CatalogueFile {
    place: Arc<dyn Place>,
    state: Mutex<State>,
    /// Held while the file is written.
    texts: Mutex<Texts>,
}

struct State {
    revision: u64,
    /// By the KMS's name.
    sections: BTreeMap<String, Section>,
}

enum Section {
    /// It comes from a server that made no seals: the first one is made when the KMS answers.
    Unsealed,
    /// The KMS has not been called yet. With the section as it was sealed.
    Unchecked(Seal, Map<String, Value>),
    /// It was as it was sealed; the server's own changes are sealed with this.
    Checked(SealKey),
    /// It is not what a server has written, or cannot be known to be.
    Broken(String, Option<(Seal, Map<String, Value>)>),
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// All is as it was.
    Already,
    /// The section can be sealed from now on: the file is to be written.
    Anew,
}

impl CatalogueFile {
    /// Reads the file. Where there is none, and never was, the catalogue is an empty one. `accepted`: the revision of a
    /// file that the operator takes as it is.
    ///
    /// Errors: it is gone, older than it was, or no catalogue; the text says the remedy.
    pub fn read(
        place: Arc<dyn Place>,
        accepted: Option<u64>,
    ) -> Result<(CatalogueFile, Catalogue), String> {
        let path = place.path();
        let marked = place.mark(REVISION_MARK);
        let text = match place.read() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if marked > 0 || place.has_keys().map_err(|error| error.to_string())? {
                    return Err(format!(
                        "{0} is missing, although this data directory was in use: restore it from a backup, with \
                         store.toml of the same time; without it no key can be opened. To start empty, use another \
                         directory (--data)",
                        path.display()
                    ));
                }
                return Ok((Self::new(place, 0, BTreeMap::new()), Catalogue::default()));
            }
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let mut document: Value = serde_json::from_str(&text)
            .map_err(|error| format!("{} is not valid: {error}", path.display()))?;
        let (revision, seals) = take_seals(&mut document)
            .map_err(|error| format!("{} is not valid: {error}", path.display()))?;
        let is_accepted = accepted == Some(revision);
        if revision < marked && !is_accepted {
            return Err(older(
                &format!(
                    "{} has revision {revision}, and there was {marked}",
                    path.display()
                ),
                revision,
            ));
        }
        for (kms, seal) in &seals {
            let marked = place.mark(&sealed_mark(kms));
            if seal.revision < marked && !is_accepted {
                return Err(older(
                    &format!(
                        "in {} the keyspaces of the KMS {kms} have revision {}, and there was {marked}",
                        path.display(),
                        seal.revision
                    ),
                    revision,
                ));
            }
        }
        let mut catalogue =
            Catalogue::from_document(document.clone()).map_err(|e| e.to_string())?;
        for seal in seals.values() {
            if let Some(was) = &seal.was {
                catalogue.tighten_sealed(was).map_err(|e| e.to_string())?;
            }
        }
        let next_id = u32::try_from(place.mark(NEXT_ID_MARK)).unwrap_or(u32::MAX);
        catalogue.skip_ids_below(next_id);
        let sections = match is_accepted {
            true => {
                tracing::warn!(revision, "{} is taken as it is", catalogue::FILE);
                BTreeMap::new()
            }
            false => sections(&*place, &document, &catalogue, seals),
        };
        Ok((Self::new(place, revision.max(marked), sections), catalogue))
    }

    fn new(place: Arc<dyn Place>, revision: u64, sections: BTreeMap<String, Section>) -> Self {
        let state = State { revision, sections };
        CatalogueFile {
            place,
            state: Mutex::new(state),
            texts: Mutex::default(),
        }
    }

    /// Whether there has been a file.
    pub fn is_new(&self) -> bool {
        self.state().revision == 0
    }

    /// Writes the file, durably, and marks how far it has come. Blocks; one at a time.
    pub fn write(&self, catalogue: &Catalogue) -> io::Result<()> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.follow(catalogue).map_err(io::Error::other)?;
        let (text, marks) = self.sealed(catalogue, &texts)?;
        self.place.write(text.as_bytes())?;
        let marks = marks.iter().map(|(name, value)| (name.as_str(), *value));
        let marks: Vec<(&str, u64)> = marks.collect();
        self.place.raise_marks(&marks)
    }

    /// Returns the next revision's text, and what must be marked once it is written. Does not wait for the disk while it
    /// holds the state.
    fn sealed(
        &self,
        catalogue: &Catalogue,
        texts: &Texts,
    ) -> io::Result<(String, Vec<(String, u64)>)> {
        let mut state = self.state();
        // Also if it fails: the file may be there.
        state.revision += 1;
        let revision = state.revision;
        let mut seals = BTreeMap::new();
        for (kms, section) in &mut state.sections {
            let content = texts.section(kms);
            let seal = section.seal(kms, revision, &content);
            if let Some(seal) = seal.map_err(io::Error::other)? {
                seals.insert(kms.clone(), seal);
            }
        }
        drop(state);
        let sealed = seals.iter();
        let mut marks: Vec<_> = sealed
            .map(|(kms, seal)| (sealed_mark(kms), seal.revision))
            .collect();
        marks.push((REVISION_MARK.to_owned(), revision));
        marks.push((NEXT_ID_MARK.to_owned(), catalogue.next_id().into()));
        let seals = serde_json::to_value(&seals).map_err(io::Error::other)?;
        let mut members = Map::new();
        members.insert("revision".to_owned(), json!(revision));
        members.insert("seals".to_owned(), seals);
        let text = texts.file(catalogue, members).map_err(io::Error::other)?;
        Ok((text, marks))
    }

    /// Makes sure that the keyspaces of a KMS are what a server has written. Calls the KMS once per process.
    ///
    /// Errors: they are not; the KMS does not answer.
    pub async fn check<K: Kms>(
        &self,
        name: &str,
        kms: &K,
        first_seal: FirstSeal,
    ) -> Result<Checked, KmsError> {
        enum Next {
            Check(Seal, Map<String, Value>),
            Make,
        }
        let next = match self.state().sections.get(name) {
            Some(Section::Checked(_)) => return Ok(Checked::Already),
            Some(Section::Broken(why, _)) => return Err(broken(name, why)),
            Some(Section::Unchecked(seal, section)) => Next::Check(seal.clone(), section.clone()),
            Some(Section::Unsealed) | None => Next::Make,
        };
        match next {
            Next::Check(seal, section) => {
                let record = seal.record().map_err(|why| broken(name, &why))?;
                let unwrapped = kms
                    .unwrap_dek(NO_KEYSPACE, FIRST_GENERATION, &record)
                    .await?;
                let is_whole = seal.is_whole(name, &section, &unwrapped.dek);
                let mut state = self.state();
                if !is_whole {
                    let why = "they were changed by something else than a server";
                    let section = Section::Broken(why.to_owned(), Some((seal, section)));
                    state.sections.insert(name.to_owned(), section);
                    return Err(broken(name, why));
                }
                let was_tightened = seal.was.is_some();
                let key = SealKey::new(&record, unwrapped.dek);
                state
                    .sections
                    .insert(name.to_owned(), Section::Checked(key));
                Ok(match was_tightened {
                    true => Checked::Anew,
                    false => Checked::Already,
                })
            }
            Next::Make => {
                let made = match kms.new_dek(NO_KEYSPACE, FIRST_GENERATION).await {
                    Ok(made) => made,
                    Err(error) if first_seal == FirstSeal::Optional => {
                        tracing::warn!(kms = name, %error, "its keyspaces are not sealed yet");
                        return Ok(Checked::Already);
                    }
                    Err(error) => return Err(error),
                };
                let mut state = self.state();
                let section = state.sections.entry(name.to_owned());
                let section = section.or_insert(Section::Unsealed);
                if matches!(section, Section::Unsealed) {
                    *section = Section::Checked(SealKey::new(&made.record, made.dek));
                }
                Ok(Checked::Anew)
            }
        }
    }

    /// Whether the key that seals a KMS's section is wrapped under an older version of the KMS's key than the newest.
    /// Without it no DEK is handed out, so that it must not be left behind when the KMS stops decrypting with old ones.
    pub fn is_seal_behind<K: Kms>(&self, name: &str, kms: &K) -> bool {
        let Some(newest) = kms.newest_key_version() else {
            return false;
        };
        let wrapped = match self.state().sections.get(name) {
            Some(Section::Checked(key)) => key.wrapped(),
            Some(Section::Unchecked(seal, _)) => seal.record().unwrap_or_default(),
            _ => return false,
        };
        let version = kms.key_version(NO_KEYSPACE, FIRST_GENERATION, &wrapped);
        version.is_some_and(|version| version < newest)
    }

    /// Makes another key for the seal of a KMS's section, which the next write uses, if the present one is behind.
    /// Returns whether it did. Two calls at the KMS.
    pub async fn renew_seal<K: Kms>(&self, name: &str, kms: &K) -> Result<bool, KmsError> {
        if !self.is_checked(name) || !self.is_seal_behind(name, kms) {
            return Ok(false);
        }
        let made = kms.new_dek(NO_KEYSPACE, FIRST_GENERATION).await?;
        let mut state = self.state();
        if let Some(section @ Section::Checked(_)) = state.sections.get_mut(name) {
            *section = Section::Checked(SealKey::new(&made.record, made.dek));
        }
        Ok(true)
    }

    /// Whether a KMS's section can be sealed: it was checked, or just made.
    pub fn is_checked(&self, kms: &str) -> bool {
        matches!(self.state().sections.get(kms), Some(Section::Checked(_)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Section {
    /// The seal of this section, given as text, as it is to be written; `None` if there is none.
    fn seal(
        &mut self,
        kms: &str,
        revision: u64,
        section: &str,
    ) -> serde_json::Result<Option<Seal>> {
        let (seal, was) = match self {
            Section::Unsealed | Section::Broken(_, None) => return Ok(None),
            Section::Checked(key) => return Ok(Some(key.seal(kms, revision, section))),
            Section::Unchecked(seal, was) | Section::Broken(_, Some((seal, was))) => (seal, was),
        };
        let section: Map<String, Value> = serde_json::from_str(section)?;
        seal.was = (*was != section).then(|| was.clone());
        Ok(Some(seal.clone()))
    }
}

fn take_seals(document: &mut Value) -> Result<(u64, BTreeMap<String, Seal>), String> {
    let fields = document.as_object_mut().ok_or("it is no object")?;
    let revision = fields.remove("revision").unwrap_or_else(|| json!(0));
    let revision = revision.as_u64().ok_or("its revision is no number")?;
    let seals = fields.remove("seals").unwrap_or_else(|| json!({}));
    let seals = serde_json::from_value(seals).map_err(|error| error.to_string())?;
    Ok((revision, seals))
}

/// What is known of each section when the file has been read.
fn sections(
    place: &dyn Place,
    document: &Value,
    catalogue: &Catalogue,
    seals: BTreeMap<String, Seal>,
) -> BTreeMap<String, Section> {
    let mut sections = BTreeMap::new();
    for (_, keyspace) in catalogue.iter() {
        let mut deks = keyspace.deks();
        deks.extend(keyspace.retired_deks());
        // A server that makes such DEKs makes seals: this one was taken away.
        let is_sealed = deks.iter().any(|dek| is_sealed_data_key(&dek.record))
            || place.mark(&sealed_mark(&keyspace.kms)) > 0;
        let section = sections
            .entry(keyspace.kms.clone())
            .or_insert(Section::Unsealed);
        if is_sealed {
            *section = Section::Broken("their seal is missing".to_owned(), None);
        }
    }
    for (kms, seal) in seals {
        let sealed = seal.was.clone();
        let sealed = sealed.unwrap_or_else(|| section_of(document, &kms));
        sections.insert(kms, Section::Unchecked(seal, sealed));
    }
    sections
}

fn sealed_mark(kms: &str) -> String {
    format!("{SEALED_MARK}{kms}")
}

fn older(what: &str, revision: u64) -> String {
    format!(
        "{what}: an older file was put back, which can undo locks and withdrawn grants. Restore the newest one; or, to \
         take this one as it is, start once with --accept-catalogue {revision}"
    )
}

fn broken(kms: &str, why: &str) -> KmsError {
    KmsError::new(
        Class::Corrupt,
        format!(
            "the keyspaces of the KMS {kms} in {} cannot be trusted: {why}",
            catalogue::FILE
        ),
        "restore the file from a backup; or, to take it as it is, start once with --accept-catalogue REVISION, the \
         number that stands in it as `revision`",
    )
}

#[cfg(test)]
mod tests;
