//! Test helpers that parse keyspaces and changes from lines of text.

use super::{
    Catalogue, CatalogueError, ChangeAuthor, NewKeyspace, OverrideDuration, SettingsChange,
};

/// Parses lines `name=value`.
pub(crate) fn change(
    lines: &str,
    lasts: Option<OverrideDuration>,
) -> Result<SettingsChange, CatalogueError> {
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
        by: &ChangeAuthor,
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
        lasts: Option<OverrideDuration>,
        by: &ChangeAuthor,
    ) -> Result<(), CatalogueError> {
        self.set(id, &change(lines, lasts)?, by)
    }
}
