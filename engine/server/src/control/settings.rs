//! Settings at run time: changes for good and for a while, and what has been changed.

use std::rc::Rc;

use serde_json::json;

use super::catalogue::{By, Catalogue, Change, Lasts};
use super::kms::Kms;
use super::{Answer, Control};
use crate::authorise::Principal;
use crate::clock;

/// Name of the line in a request that says how long its changes last.
const FOR_LINE: &str = "for_ms=";

/// A change that a principal makes now.
pub(super) fn by(who: Principal) -> By {
    By::principal(who.to_string(), clock::moment())
}

impl<K: Kms + 'static> Control<K> {
    pub(super) async fn set(&self, id: u32, lines: &str, who: Principal) -> Answer {
        let (lasts, lines) = take_line(lines, FOR_LINE);
        let lasts = lasts.map(Lasts::parse).transpose()?;
        let mut changed = self.catalogue.borrow().clone();
        changed.set(id, &lines, lasts, &by(who))?;
        self.commit(changed)?;
        self.publish(id).await?;
        let settings = lines.trim().replace('\n', " ");
        match lasts {
            None => tracing::info!(keyspace = id, %who, %settings, "settings changed"),
            Some(lasts) => {
                tracing::info!(keyspace = id, %who, %settings, for_ms = lasts.ms(), "settings changed for a while");
            }
        }
        Ok(Vec::new())
    }

    /// Takes back the changes for a while that are due. To be called once a second.
    ///
    /// A disk that takes nothing does not keep them in force: their ends are on it already, so that what is in memory
    /// only is what a restart would come to as well.
    pub(super) fn end_limited(self: &Rc<Self>) {
        let now = clock::moment();
        if !self.catalogue.borrow().is_due(now) {
            return;
        }
        let mut changed = self.catalogue.borrow().clone();
        let ended = changed.go_back(now);
        if let Err((_, why)) = self.commit(changed.clone()) {
            log_unwritten(&why);
            *self.catalogue.borrow_mut() = changed;
        }
        log_ended(&ended);
        let mut ids: Vec<u32> = ended.into_iter().map(|(id, _)| id).collect();
        ids.dedup();
        let control = Rc::clone(self);
        tokio::task::spawn_local(async move {
            for id in ids {
                // A keyspace that has just been changed is in the catalogue, and valid.
                let _ = control.publish(id).await;
            }
        });
    }

    /// What was changed of a keyspace, newest first, as JSON.
    pub(super) fn history(&self, id: u32) -> Answer {
        let catalogue = self.catalogue.borrow();
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

/// Takes the lines that begin with `prefix` out of settings lines; the rest of the last of them.
pub(super) fn take_line<'a>(lines: &'a str, prefix: &str) -> (Option<&'a str>, String) {
    let taken = lines
        .lines()
        .filter_map(|line| line.strip_prefix(prefix))
        .next_back();
    let others = lines.lines().filter(|line| !line.starts_with(prefix));
    (taken, others.map(|line| format!("{line}\n")).collect())
}
