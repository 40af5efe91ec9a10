//! Temporary overrides: changes that revert automatically when they expire.
//!
//! While the server runs, their time is measured on the clock of expiry, which cannot be set. Across a restart the wall
//! clock determines the remaining time, which never exceeds the original duration.

use keyway_core::{Instant, Setting, Settings, SettingsError};
use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, Subject};
use super::history::{Change, ChangeAuthor};
use super::{CatalogueError, Keyspace};
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// When it expires, on the wall clock as it was when the override was set.
    pub until_unix_ms: u64,
    /// The original duration, in ms.
    for_ms: u64,
    /// What it overrides.
    previous: Assignment,
    /// When it expires, on the clock of expiry.
    due: Option<Instant>,
}

/// An override in the file, where it has the name of what it changes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredOverride {
    until_unix_ms: u64,
    for_ms: u64,
    /// Absent if the value was a default, or there was no grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back_to: Option<String>,
}

impl StoredOverride {
    /// Decodes the override of that name. Its timer does not run yet: see [`Override::resume`].
    ///
    /// Errors: an unknown setting, or an invalid value.
    pub(super) fn decode(self, name: &str) -> Result<(Subject, Override), CatalogueError> {
        let previous = Assignment::read(name, self.back_to)?;
        let temporary = Override {
            until_unix_ms: self.until_unix_ms,
            for_ms: self.for_ms,
            due: None,
            previous,
        };
        Ok((temporary.previous.subject(), temporary))
    }
}

impl Override {
    pub(super) fn new(lasts: OverrideDuration, previous: Assignment, at: Moment) -> Override {
        Override {
            until_unix_ms: at.unix_ms.saturating_add(lasts.0),
            for_ms: lasts.0,
            previous,
            due: Some(at.instant.plus_us(lasts.0 * US_PER_MS)),
        }
    }

    /// Returns what is restored when the override expires.
    pub(super) fn into_previous(self) -> Assignment {
        self.previous
    }

    pub(super) fn stored(&self) -> StoredOverride {
        StoredOverride {
            until_unix_ms: self.until_unix_ms,
            for_ms: self.for_ms,
            back_to: self.previous.stored(),
        }
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
    /// Returns the overrides by what they change, each with the value to which it reverts.
    pub fn overrides(&self) -> impl Iterator<Item = (&Subject, &Override, String)> {
        self.overrides
            .iter()
            .map(|(subject, temporary)| (subject, temporary, temporary.previous.value()))
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
        let mut changes = self.end(now, |temporary| temporary.is_due(now));
        if !changes.is_empty() && self.settings().validate().is_err() {
            changes.extend(self.end(now, |_| true));
        }
        changes
    }

    fn end(&mut self, now: Moment, is_over: impl Fn(&Override) -> bool) -> Vec<Change> {
        let by = ChangeAuthor::expiry(now);
        let (over, left) = std::mem::take(&mut self.overrides)
            .into_iter()
            .partition(|(_, temporary)| is_over(temporary));
        self.overrides = left;
        let mut changes = Vec::new();
        for (subject, temporary) in over {
            let from = self.assigned(&subject).value();
            let to = temporary.previous.value();
            self.assign(temporary.previous);
            let change = Change::new(&by, &subject.to_string()).between(from, to);
            self.history.note(change.clone());
            changes.push(change);
        }
        changes
    }

    /// Checks that the settings do not conflict, now and after each expiry of an override.
    pub(super) fn check(&self, now: Moment) -> Result<(), CatalogueError> {
        let mut settings = self.settings();
        validate(&settings)?;
        let mut ends: Vec<_> = self.setting_overrides().collect();
        ends.sort_by_key(|(temporary, _)| temporary.due);
        for together in ends.chunk_by(|(a, _), (b, _)| a.due == b.due) {
            for (_, previous) in together {
                settings.put(*previous);
            }
            settings
                .validate()
                .map_err(|error| conflict_on_revert(&error, together, now))?;
        }
        Ok(())
    }

    /// Checks that the settings do not conflict, now and with all overrides expired.
    pub(super) fn check_stored(&self) -> Result<(), CatalogueError> {
        let mut settings = self.settings();
        validate(&settings)?;
        for (_, previous) in self.setting_overrides() {
            settings.put(previous);
        }
        validate(&settings)
    }

    /// Returns the overrides of settings, each with the setting to which it reverts.
    fn setting_overrides(&self) -> impl Iterator<Item = (&Override, Setting)> {
        let overrides = self.overrides.values();
        overrides.filter_map(|temporary| Some((temporary, temporary.previous.setting()?)))
    }
}

fn validate(settings: &Settings) -> Result<(), CatalogueError> {
    let valid = settings.validate();
    valid.map_err(|error| CatalogueError::Bad(error.to_string()))
}

/// Returns `error` with the overrides whose common expiry causes it, when, and the remedy.
fn conflict_on_revert(
    error: &SettingsError,
    together: &[(&Override, Setting)],
    now: Moment,
) -> CatalogueError {
    let names: Vec<&str> = together
        .iter()
        .map(|(_, previous)| previous.name().as_str())
        .collect();
    let back: Vec<String> = together
        .iter()
        .map(|(_, previous)| format!("{} reverts to {previous}", previous.name().as_str()))
        .collect();
    let due = together.first().and_then(|(temporary, _)| temporary.due);
    let left_us = due.map_or(0, |due| due.saturating_since(now.instant));
    let left_s = left_us.div_ceil(US_PER_MS * 1_000);
    CatalogueError::Bad(format!(
        "{error} would be violated in {left_s} s, when {}; set {} permanently first, or wait until then",
        back.join(" and "),
        names.join(" and ")
    ))
}
