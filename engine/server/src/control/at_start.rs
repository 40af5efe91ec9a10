//! The catalogue at a start: read, checked as far as possible without a KMS, and created if there was none.

use std::path::Path;
use std::sync::Arc;

use keyway_kms::{ProviderState, Service};

use super::catalogue::{
    self, Catalogue, ChangeAuthor, FIRST_GENERATION, NewKeyspace, SettingsChange,
};
use super::catalogue_file::{CatalogueFile, Checked, FirstSeal, Place};
use super::kms::KmsSet;
use super::settings::revert_expired_at_start;
use crate::clock;
use crate::config::Config;

/// The keyspace that `--dev` makes at its first start.
const DEV_KEYSPACE: &str = "prod";

/// The provider whose KMSes are here, and answer at once.
const LOCAL: &str = "local";

/// Refuses a directory that has a catalogue and no manifest: a new manifest would be another cluster, under which nothing
/// of the catalogue opens. To be called before the directory is opened, which creates what is missing.
pub fn refuse_half(data: &Path) -> Result<(), String> {
    let manifest = data.join("store.toml");
    let catalogue = data.join(catalogue::FILE);
    if catalogue.exists() && !manifest.exists() {
        return Err(format!(
            "{} is missing, although {} is there: restore it and the blobs- folders from a backup of the same time",
            manifest.display(),
            catalogue.display()
        ));
    }
    Ok(())
}

/// Reads the catalogue.
pub fn read(
    config: &Config,
    place: Arc<dyn Place>,
) -> Result<(Arc<CatalogueFile>, Catalogue), String> {
    let (file, keyspaces) = CatalogueFile::read(place, config.accept_catalogue)?;
    Ok((Arc::new(file), keyspaces))
}

/// Brings the catalogue up to the present: checks what the KMSes that are open here have sealed, takes back changes whose
/// time is over, makes the first keyspace of `--dev`, and writes what has to be.
pub async fn prepare(
    config: &Config,
    kms: &KmsSet<Service>,
    file: &CatalogueFile,
    keyspaces: &mut Catalogue,
) -> Result<(), String> {
    let is_first = file.is_new();
    let mut to_write = is_first;
    for (name, service) in kms.iter() {
        let is_used = keyspaces.iter().any(|(_, keyspace)| keyspace.kms == name);
        let answers =
            service.provider_name() == LOCAL && service.state() == ProviderState::Unlocked;
        if is_used && answers {
            let checked = file.check(name, service, FirstSeal::Optional).await;
            to_write |= checked.map_err(|error| error.to_string())? == Checked::Anew;
        }
    }
    revert_expired_at_start(keyspaces, |keyspaces| file.write(keyspaces));
    if config.dev && keyspaces.iter().next().is_none() {
        make_first(kms, file, keyspaces).await?;
        to_write = true;
    }
    for (_, keyspace) in keyspaces.iter() {
        kms.get(&keyspace.kms).map_err(|error| {
            format!("keyspace `{}` cannot be unwrapped: {error}", keyspace.name)
        })?;
    }
    if !to_write {
        return Ok(());
    }
    match file.write(keyspaces) {
        // It can be written later: a full disk is no reason not to serve.
        Err(error) if !is_first => {
            tracing::error!(%error, "{} could not be written", catalogue::FILE);
            Ok(())
        }
        written => written.map_err(|error| format!("{}: {error}", catalogue::FILE)),
    }
}

async fn make_first(
    kms: &KmsSet<Service>,
    file: &CatalogueFile,
    keyspaces: &mut Catalogue,
) -> Result<(), String> {
    let name = kms.default_name();
    let first = kms.get(name).map_err(|error| error.to_string())?;
    let checked = file.check(name, first, FirstSeal::Needed).await;
    checked.map_err(|error| error.to_string())?;
    let made = first.new_dek(keyspaces.next_id(), FIRST_GENERATION).await;
    let dek = made.map_err(|error| error.to_string())?;
    let by = ChangeAuthor::server(clock::moment());
    let new = NewKeyspace {
        name: DEV_KEYSPACE,
        change: &SettingsChange::default(),
        kms: name,
        record: &dek.record,
    };
    let made = keyspaces.create(new, &by);
    made.map(drop).map_err(|error| error.to_string())
}
