//! Keyspaces and changes as tests write them: in lines.

use super::{By, Catalogue, CatalogueError, Lasts, NewKeyspace, SettingsChange};

/// Reads lines `name=value`.
pub(crate) fn change(lines: &str, lasts: Option<Lasts>) -> Result<SettingsChange, CatalogueError> {
    let end = lasts.map(|lasts| lasts.ms().to_string());
    let end = end.as_deref().map(|end| ("for_ms", end));
    let settings = lines.lines().filter(|line| !line.is_empty());
    SettingsChange::parse(settings.filter_map(|line| line.split_once('=')).chain(end))
}

impl Catalogue {
    pub(crate) fn make(
        &mut self,
        name: &str,
        lines: &str,
        kms: &str,
        record: &[u8],
        by: &By,
    ) -> Result<u32, CatalogueError> {
        let change = &change(lines, None)?;
        let new = NewKeyspace {
            name,
            change,
            kms,
            record,
        };
        self.create(new, by)
    }

    pub(crate) fn set_lines(
        &mut self,
        id: u32,
        lines: &str,
        lasts: Option<Lasts>,
        by: &By,
    ) -> Result<(), CatalogueError> {
        self.set(id, &change(lines, lasts)?, by)
    }
}
