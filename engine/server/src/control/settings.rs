//! Settings at run time: changes for good and for a while, and what has been changed.

use std::rc::Rc;

use serde_json::json;

use super::catalogue::{By, Catalogue, CatalogueError, Change, SettingsChange};
use super::kms::Kms;
use super::lanes::Lane;
use super::saver::acknowledge;
use super::{Answer, Control};
use crate::authorise::Principal;
use crate::clock;

/// A change that a principal makes now.
pub(super) fn by(who: Principal) -> By {
    By::principal(who.to_string(), clock::moment())
}

impl<K: Kms + 'static> Control<K> {
    pub(super) async fn set(self: &Rc<Self>, id: u32, lines: &str, who: Principal) -> Answer {
        let change = parse(lines)?;
        let (lasts, settings) = (change.lasts(), change.to_string());
        let by = by(who);
        let edit = move |catalogue: &mut Catalogue| catalogue.set(id, &change, &by);
        self.check_before_set(id, &edit).await?;
        let settled = self.edit(&[id], edit).await?;
        match lasts {
            None => tracing::info!(keyspace = id, %who, %settings, "settings changed"),
            Some(lasts) => {
                tracing::info!(keyspace = id, %who, %settings, for_ms = lasts.ms(), "settings changed for a while");
            }
        }
        acknowledge(settled, Vec::new())
    }

    /// Takes back the changes for a while that are due. To be called once a second.
    ///
    /// A disk that takes nothing does not keep them in force: their ends are on it already, so that what is in memory
    /// only is what a restart would come to as well.
    pub(super) fn end_limited(self: &Rc<Self>) {
        let (ended, keyspaces) = self.in_force.borrow_mut().go_back(clock::moment());
        if keyspaces.is_empty() {
            return;
        }
        self.save();
        log_ended(&ended);
        let keyspaces: Vec<u32> = keyspaces.into_iter().collect();
        let control = Rc::clone(self);
        tokio::task::spawn_local(async move {
            control.publish(&keyspaces, Lane::Emergency).await;
        });
    }

    /// What was changed of a keyspace, newest first, as JSON.
    pub(super) fn history(&self, id: u32) -> Answer {
        let catalogue = self.written();
        let changes: Vec<&Change> = catalogue.keyspace(id)?.history.iter().collect();
        let document = json!({ "changes": changes });
        Ok(document.to_string().into_bytes())
    }
}

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
        log_unwritten(&error.to_string());
    }
    log_ended(&ended);
}

fn log_unwritten(why: &str) {
    tracing::error!(
        why,
        "settings have gone back, which is written down with the next change only"
    );
}

fn log_ended(ended: &[(u32, Change)]) {
    for (keyspace, change) in ended {
        tracing::info!(
            keyspace,
            setting = change.what,
            from = change.from.as_deref(),
            to = change.to.as_deref(),
            "a change for a while is over"
        );
    }
}

/// Reads settings lines, `name=value`.
pub(super) fn parse(lines: &str) -> Result<SettingsChange, CatalogueError> {
    let lines = lines.lines().filter(|line| !line.is_empty());
    let pairs: Result<Vec<_>, _> = lines
        .map(|line| {
            line.split_once('=').ok_or_else(|| {
                CatalogueError::Bad(format!("`{line}` is not a setting; write name=value"))
            })
        })
        .collect();
    SettingsChange::parse(pairs?)
}

/// Takes the lines that begin with `prefix` out of settings lines; the rest of the last of them.
pub(super) fn take_line<'a>(lines: &'a str, prefix: &str) -> (Option<&'a str>, String) {
    let taken = lines
        .lines()
        .filter_map(|line| line.strip_prefix(prefix))
        .next_back();
    let others = lines.lines().filter(|line| !line.starts_with(prefix));
    (taken, others.map(|line| format!("{line}\n")).collect())
}
