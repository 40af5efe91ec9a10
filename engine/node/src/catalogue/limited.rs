//! Changes that were made for a while, and go back by themselves.
//!
//! While the server runs, their time is counted on the clock of expiry, which nobody sets. What is left of it over a
//! restart is told by the wall clock, and is never more than the change was made for.

use std::collections::BTreeMap;

use keyway_core::{Instant, Settings, SettingsError};
use serde::{Deserialize, Serialize};

use super::history::{By, Change};
use super::{CatalogueError, Keyspace, settings_of};
use crate::time::Moment;

/// The shortest time that a change can be made for: ends are looked for once a second.
const FOR_MS_MIN: u64 = 1_000;

/// The longest: 30 days. What is to hold for longer is no exception any more.
const FOR_MS_MAX: u64 = 30 * 86_400_000;

const US_PER_MS: u64 = 1_000;

/// How long a change is made for, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasts(u64);

impl Lasts {
    /// Reads a number of ms.
    pub fn parse(text: &str) -> Result<Lasts, CatalogueError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(ms) if digits && (FOR_MS_MIN..=FOR_MS_MAX).contains(&ms) => Ok(Lasts(ms)),
            _ => Err(CatalogueError::Bad(format!(
                "for_ms={text} is refused: {FOR_MS_MIN} <= for_ms <= {FOR_MS_MAX}, 1 s to 30 days; \
                 for longer, make the change for good"
            ))),
        }
    }

    /// In ms.
    pub fn ms(self) -> u64 {
        self.0
    }
}

/// The end of a change that was made for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limited {
    /// When it goes back, on the wall clock of the time when it was made.
    pub until_unix_ms: u64,
    /// How long it was made for.
    for_ms: u64,
    /// What was stored before; nothing for a default, and for no grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back_to: Option<String>,
    /// When it goes back, on the clock of expiry.
    #[serde(skip)]
    due: Option<Instant>,
}

impl Limited {
    pub(super) fn new(lasts: Lasts, back_to: Option<String>, at: Moment) -> Limited {
        Limited {
            until_unix_ms: at.unix_ms.saturating_add(lasts.0),
            for_ms: lasts.0,
            back_to,
            due: Some(at.instant.plus_us(lasts.0 * US_PER_MS)),
        }
    }

    /// What was stored before this change, and will be after it.
    pub(super) fn into_back_to(self) -> Option<String> {
        self.back_to
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
    /// What goes back by itself, by name: its end, and the value that holds then.
    pub fn limited(&self) -> impl Iterator<Item = (&str, &Limited, String)> {
        let limited = self.limited.iter();
        limited.map(|(name, limited)| (name.as_str(), limited, self.then(name, limited)))
    }

    pub(super) fn resume(&mut self, now: Moment) {
        for limited in self.limited.values_mut() {
            limited.resume(now);
        }
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.limited.values().any(|limited| limited.is_due(now))
    }

    /// Takes back what is due. Every state that this leads to was checked when the changes were made, as long as
    /// clocks keep the order of their ends. If a clock that was set between two runs has turned it round and the rest
    /// would contradict what goes back, the rest goes back, too: what holds without any limited change is always valid.
    pub(super) fn go_back(&mut self, now: Moment) -> Vec<Change> {
        let is_due = |(_, limited): &(&String, &Limited)| limited.is_due(now);
        let due: Vec<String> = self.limited.iter().filter(is_due).map(name_of).collect();
        let mut changed = self.clone();
        let mut changes = changed.end(due, now);
        if !changes.is_empty() && changed.settings().is_err() {
            let rest: Vec<String> = changed.limited.iter().map(name_of).collect();
            changes.extend(changed.end(rest, now));
        }
        *self = changed;
        changes
    }

    fn end(&mut self, names: Vec<String>, now: Moment) -> Vec<Change> {
        let by = By::expiry(now);
        let mut changes = Vec::new();
        for name in names {
            let from = self.text(&name);
            if let Some(limited) = self.limited.remove(&name) {
                self.put(&name, limited.back_to.as_deref());
                let change = Change::new(&by, &name).between(from, self.text(&name));
                self.history.note(change.clone());
                changes.push(change);
            }
        }
        changes
    }

    /// Checks that the settings do not contradict each other: now, and each time that some of them go back.
    pub(super) fn check(&self, now: Moment) -> Result<(), CatalogueError> {
        self.settings()?;
        let mut settings = self.settings.clone();
        let mut ends: Vec<_> = self
            .limited
            .iter()
            .filter(|(name, _)| Settings::canonical_name(name).is_some())
            .collect();
        ends.sort_by_key(|(_, limited)| limited.due);
        for together in ends.chunk_by(|(_, a), (_, b)| a.due == b.due) {
            for (name, limited) in together {
                restore(&mut settings, name, limited);
            }
            settings_of(&settings).map_err(|error| self.when_back(&error, together, now))?;
        }
        Ok(())
    }

    /// Returns `error` with the override whose expiry causes it, when, and the remedy.
    fn when_back(
        &self,
        error: &SettingsError,
        together: &[(&String, &Limited)],
        now: Moment,
    ) -> CatalogueError {
        let names: Vec<&str> = together.iter().map(|(name, _)| name.as_str()).collect();
        let back = together.iter().map(|(name, limited)| {
            let then = self.then(name, limited);
            format!("{name} reverts to {then}")
        });
        let back: Vec<String> = back.collect();
        let due = together.first().and_then(|(_, limited)| limited.due);
        let left_us = due.map_or(0, |due| due.saturating_since(now.instant));
        let left_s = left_us.div_ceil(US_PER_MS * 1_000);
        CatalogueError::Bad(format!(
            "{error} would be violated in {left_s} s, when {}; set {} permanently first, or wait until then",
            back.join(" and "),
            names.join(" and ")
        ))
    }

    /// The value that holds after a change for a while.
    fn then(&self, name: &str, limited: &Limited) -> String {
        match &limited.back_to {
            Some(value) => value.clone(),
            None => self.default_text(name),
        }
    }

    /// Checks that the settings do not contradict each other: now, and when none is limited any more.
    pub(super) fn check_stored(&self) -> Result<(), CatalogueError> {
        self.settings()?;
        let mut settings = self.settings.clone();
        for (name, limited) in &self.limited {
            if Settings::canonical_name(name).is_some() {
                restore(&mut settings, name, limited);
            }
        }
        settings_of(&settings)
            .map(|_| ())
            .map_err(|error| CatalogueError::Bad(error.to_string()))
    }
}

fn name_of((name, _): (&String, &Limited)) -> String {
    name.clone()
}

fn restore(settings: &mut BTreeMap<String, String>, name: &str, limited: &Limited) {
    match &limited.back_to {
        Some(value) => settings.insert(name.to_owned(), value.clone()),
        None => settings.remove(name),
    };
}
