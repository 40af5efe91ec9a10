//! Changes for a while, at a start.

use super::catalogue::Catalogue;
use super::log;
use crate::clock;

/// Counts what is left of the changes for a while, and takes back those that are due since the last run. `save` writes
/// the catalogue, if there were any.
pub fn end_limited_at_start(
    catalogue: &mut Catalogue,
    save: impl FnOnce(&Catalogue) -> std::io::Result<()>,
) {
    let now = clock::moment();
    catalogue.resume(now);
    let ended = catalogue.go_back(now);
    if !ended.is_empty()
        && let Err(error) = save(catalogue)
    {
        tracing::error!(
            why = error.to_string(),
            "settings have gone back, which is written down with the next change only"
        );
    }
    for (keyspace, change) in &ended {
        log::limited_ended(*keyspace, change);
    }
}
