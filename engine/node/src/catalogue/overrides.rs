//! Temporary overrides: changes that revert automatically when they expire.
//!
//! While the server runs, their time is measured on the clock of expiry, which cannot be set. Across a restart the wall
//! clock determines the remaining time, which never exceeds the original duration.

use std::collections::BTreeMap;

use keyway_core::{Instant, Settings, SettingsError};
use serde::{Deserialize, Serialize};

use super::history::{Change, ChangeAuthor};
use super::{CatalogueError, Keyspace, settings_of};
use crate::time::Moment;

/// Shortest duration of an override: expiry is checked once a second.
const FOR_MS_MIN: u64 = 1_000;

/// Longest duration of an override: 30 days.
const FOR_MS_MAX: u64 = 30 * 86_400_000;

const US_PER_MS: u64 = 1_000;

/// Duration of a temporary override, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverrideDuration(u64);

impl OverrideDuration {
    /// Parses a number of ms.
    pub fn parse(text: &str) -> Result<OverrideDuration, CatalogueError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(ms) if digits && (FOR_MS_MIN..=FOR_MS_MAX).contains(&ms) => Ok(OverrideDuration(ms)),
            _ => Err(CatalogueError::Bad(format!(
                "for_ms={text} is refused: {FOR_MS_MIN} <= for_ms <= {FOR_MS_MAX}, 1 s to 30 days; \
                 for longer, make the change permanent"
            ))),
        }
    }

    /// Returns the duration in ms.
    pub fn ms(self) -> u64 {
        self.0
    }
}

/// The end of a temporary override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// When it expires, on the wall clock as it was when the override was set.
    pub until_unix_ms: u64,
    /// The original duration, in ms.
    for_ms: u64,
    /// The stored value that it overrides. `None` if the value was a default, or there was no grant.
    #[serde(rename = "back_to", default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    /// When it expires, on the clock of expiry.
    #[serde(skip)]
    due: Option<Instant>,
}

impl Override {
    pub(super) fn new(lasts: OverrideDuration, previous: Option<String>, at: Moment) -> Override {
        Override {
            until_unix_ms: at.unix_ms.saturating_add(lasts.0),
            for_ms: lasts.0,
            previous,
            due: Some(at.instant.plus_us(lasts.0 * US_PER_MS)),
        }
    }

    /// Returns the stored value to restore when the override expires.
    pub(super) fn into_previous(self) -> Option<String> {
        self.previous
    }

    fn resume(&mut self, now: Moment) {
        let left_ms = self.until_unix_ms.saturating_sub(now.unix_ms);
        let left_us = left_ms.min(self.for_ms).saturating_mul(US_PER_MS);
        self.due = Some(now.instant.plus_us(left_us));
    }

    fn is_due(&self, now: Moment) -> bool {
        self.due.is_none_or(|due| due <= now.instant)
    }
}

impl Keyspace {
    /// Returns the overrides by name, each with the value to which it reverts.
    pub fn overrides(&self) -> impl Iterator<Item = (&str, &Override, String)> {
        self.overrides
            .iter()
            .map(|(name, temporary)| (name.as_str(), temporary, self.then(name, temporary)))
    }

    pub(super) fn resume(&mut self, now: Moment) {
        for temporary in self.overrides.values_mut() {
            temporary.resume(now);
        }
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.overrides
            .values()
            .any(|temporary| temporary.is_due(now))
    }

    /// Reverts expired overrides. Every state that can result was checked when the overrides were set, provided that
    /// clocks keep the order of their ends. If a clock that was set between two runs reverses that order and the
    /// remaining overrides would conflict with the reverted value, they are reverted as well: the settings without any
    /// override are always valid.
    pub(super) fn revert_expired(&mut self, now: Moment) -> Vec<Change> {
        let is_due = |(_, temporary): &(&String, &Override)| temporary.is_due(now);
        let due: Vec<String> = self.overrides.iter().filter(is_due).map(name_of).collect();
        let mut changed = self.clone();
        let mut changes = changed.end(due, now);
        if !changes.is_empty() && changed.settings().is_err() {
            let rest: Vec<String> = changed.overrides.iter().map(name_of).collect();
            changes.extend(changed.end(rest, now));
        }
        *self = changed;
        changes
    }

    fn end(&mut self, names: Vec<String>, now: Moment) -> Vec<Change> {
        let by = ChangeAuthor::expiry(now);
        let mut changes = Vec::new();
        for name in names {
            let from = self.text(&name);
            if let Some(temporary) = self.overrides.remove(&name) {
                self.put(&name, temporary.previous.as_deref());
                let change = Change::new(&by, &name).between(from, self.text(&name));
                self.history.note(change.clone());
                changes.push(change);
            }
        }
        changes
    }

    /// Checks that the settings do not conflict, now and after each expiry of an override.
    pub(super) fn check(&self, now: Moment) -> Result<(), CatalogueError> {
        self.settings()?;
        let mut settings = self.settings.clone();
        let mut ends: Vec<_> = self
            .overrides
            .iter()
            .filter(|(name, _)| Settings::canonical_name(name).is_some())
            .collect();
        ends.sort_by_key(|(_, temporary)| temporary.due);
        for together in ends.chunk_by(|(_, a), (_, b)| a.due == b.due) {
            for (name, temporary) in together {
                restore(&mut settings, name, temporary);
            }
            settings_of(&settings)
                .map_err(|error| self.conflict_on_revert(&error, together, now))?;
        }
        Ok(())
    }

    /// Returns `error` with the override whose expiry causes it, when, and the remedy.
    fn conflict_on_revert(
        &self,
        error: &SettingsError,
        together: &[(&String, &Override)],
        now: Moment,
    ) -> CatalogueError {
        let names: Vec<&str> = together.iter().map(|(name, _)| name.as_str()).collect();
        let back = together.iter().map(|(name, temporary)| {
            let then = self.then(name, temporary);
            format!("{name} reverts to {then}")
        });
        let back: Vec<String> = back.collect();
        let due = together.first().and_then(|(_, temporary)| temporary.due);
        let left_us = due.map_or(0, |due| due.saturating_since(now.instant));
        let left_s = left_us.div_ceil(US_PER_MS * 1_000);
        CatalogueError::Bad(format!(
            "{error} would be violated in {left_s} s, when {}; set {} permanently first, or wait until then",
            back.join(" and "),
            names.join(" and ")
        ))
    }

    /// Returns the value in effect after the override expires.
    fn then(&self, name: &str, temporary: &Override) -> String {
        match &temporary.previous {
            Some(value) => value.clone(),
            None => self.default_text(name),
        }
    }

    /// Checks that the settings do not conflict, now and with all overrides expired.
    pub(super) fn check_stored(&self) -> Result<(), CatalogueError> {
        self.settings()?;
        let mut settings = self.settings.clone();
        for (name, temporary) in &self.overrides {
            if Settings::canonical_name(name).is_some() {
                restore(&mut settings, name, temporary);
            }
        }
        settings_of(&settings)
            .map(|_| ())
            .map_err(|error| CatalogueError::Bad(error.to_string()))
    }
}

fn name_of((name, _): (&String, &Override)) -> String {
    name.clone()
}

fn restore(settings: &mut BTreeMap<String, String>, name: &str, temporary: &Override) {
    match &temporary.previous {
        Some(value) => settings.insert(name.to_owned(), value.clone()),
        None => settings.remove(name),
    };
}
