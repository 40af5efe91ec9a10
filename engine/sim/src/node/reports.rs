//! Documents that only report: what KEYSPACE_HISTORY and KEYSPACE_HOT show is so.

use super::World;
use super::books::Asked;
use super::sockets::ReceivedAnswer;
use crate::control::kms::NAMES;
use crate::oracle::{Checked, ensure};
use serde_json::Value;

/// A history keeps as many changes.
const CHANGES_MAX: usize = 100;

impl World<'_> {
    /// The newest changes come first, and the last move is the one that was answered.
    pub(super) fn history_shown(
        &self,
        keyspace: u32,
        answer: &ReceivedAnswer,
        asked: &Asked,
    ) -> Checked {
        let document: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        let Some(changes) = document["changes"].as_array() else {
            ensure!(33, false, "keyspace {keyspace}: a history cannot be read");
            return Ok(());
        };
        let times = changes.iter().map(|change| change["unix_ms"].as_u64());
        ensure!(
            33,
            times.rev().is_sorted() && changes.len() <= CHANGES_MAX,
            "keyspace {keyspace}: a history is not in order, or too long: {document}"
        );
        let moved = changes.iter().find(|change| change["what"] == "kms");
        let shown = moved.and_then(|change| change["to"].as_str());
        let known = (0..NAMES.len()).find(|kms| self.is_surely_at(keyspace, *kms, asked));
        let is_so = match (shown, known) {
            (Some(shown), Some(kms)) => shown == NAMES[kms],
            _ => true,
        };
        ensure!(
            43,
            is_so,
            "keyspace {keyspace}: by the answers to REWRAP it is at {known:?}, and its history has {shown:?}"
        );
        Ok(())
    }

    /// A keyspace's hot keys are keys of it that clients have named, each once.
    pub(super) fn hot_shown(&self, keyspace: u32, answer: &ReceivedAnswer) -> Checked {
        let document: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        let Some(rows) = document["keys"].as_array() else {
            ensure!(33, false, "keyspace {keyspace}: hot keys cannot be read");
            return Ok(());
        };
        let ids: Vec<&[u8]> = rows
            .iter()
            .map(|row| row["key"].as_str().unwrap_or_default().as_bytes())
            .collect();
        let mut once = ids.clone();
        once.sort_unstable();
        once.dedup();
        let of_keyspace = self
            .books
            .keys
            .keys()
            .filter(|key| key.keyspace == keyspace);
        let named: Vec<Vec<u8>> = of_keyspace.map(|key| key.id()).collect();
        let strange = ids.iter().find(|id| !named.iter().any(|key| key == *id));
        ensure!(
            43,
            strange.is_none() && once.len() == ids.len(),
            "keyspace {keyspace}: hot are {document}, and {strange:?} was never asked for"
        );
        Ok(())
    }
}
