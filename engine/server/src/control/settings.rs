//! Temporary overrides, at a start.

use super::catalogue::Catalogue;
use super::log;
use crate::clock;

/// Computes the remaining time of temporary overrides, and reverts those that expired since the previous run. `save`
/// writes the catalogue, if there were any.
pub fn revert_expired_at_start(
    catalogue: &mut Catalogue,
    save: impl FnOnce(&Catalogue) -> std::io::Result<()>,
) {
    let now = clock::moment();
    catalogue.resume(now);
    let ended = catalogue.revert_expired(now);
    if !ended.is_empty()
        && let Err(error) = save(catalogue)
    {
        tracing::error!(
            why = error.to_string(),
            "cannot save expired overrides; they are reverted in memory and will be saved with the next change"
        );
    }
    for (keyspace, change) in &ended {
        log::override_expired(*keyspace, change);
    }
}
