//! Changes of settings and grants, decoded and checked once, when the request is received.

use super::assignment::{Assignment, not_a_setting};
use super::{CatalogueError, Keyspace, OverrideDuration};
use crate::policy::Policy;
use keyway_core::Settings;

/// The name under which a request specifies the duration of its changes.
const FOR_MS: &str = "for_ms";

/// Changes of settings and grants that are applied atomically.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    changes: Vec<Assignment>,
    lasts: Option<OverrideDuration>,
}

impl SettingsChange {
    /// Parses names and values. `for_ms=N` among them makes all changes temporary.
    ///
    /// Errors: an unknown setting, or an invalid value.
    pub fn parse<'a>(
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<SettingsChange, CatalogueError> {
        let mut change = SettingsChange::default();
        for (name, value) in settings {
            match name {
                FOR_MS => change.lasts = Some(OverrideDuration::parse(value)?),
                _ => change.changes.push(Assignment::parse(name, value)?),
            }
        }
        Ok(change)
    }

    /// Refuses a temporary change, since a keyspace cannot be created temporarily.
    pub fn without_end(self) -> Result<SettingsChange, CatalogueError> {
        match self.lasts {
            None => Ok(self),
            Some(_) => Err(not_a_setting(FOR_MS)),
        }
    }

    /// Returns the duration, or `None` if the change is permanent.
    pub fn lasts(&self) -> Option<OverrideDuration> {
        self.lasts
    }

    /// Returns `true` if one of the changes may take something away: a grant, or a time limit.
    pub fn may_take_away(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.subject().may_take_away())
    }

    /// Returns the part of this change that only withdraws grants, if it withdraws any: each principal keeps the rights
    /// that it has both before and after.
    pub fn withdrawals(&self, before: &Keyspace) -> Option<SettingsChange> {
        let withdrawn = self.changes.iter().filter_map(|change| {
            let Assignment::Grants(grantee, rights) = change else {
                return None;
            };
            let had = before.policy.of(grantee);
            let left = had.meet(rights);
            (left != had).then(|| Assignment::Grants(grantee.clone(), left))
        });
        let changes: Vec<_> = withdrawn.collect();
        (!changes.is_empty()).then_some(SettingsChange {
            changes,
            lasts: self.lasts,
        })
    }

    /// Returns the part of this change that only takes something away, if there is any: withdrawn grants, and settings as
    /// `tighter` has them, which allows what both states allow.
    pub fn tightening(&self, before: &Keyspace, tighter: &Settings) -> Option<SettingsChange> {
        let was = before.settings();
        let tightened = self.changes.iter().filter_map(|change| {
            let name = change.setting()?.name();
            let value = tighter.get(name);
            (value != was.get(name)).then_some(Assignment::Setting(value))
        });
        let withdrawn = self.withdrawals(before).map(|change| change.changes);
        let changes: Vec<_> = withdrawn.into_iter().flatten().chain(tightened).collect();
        (!changes.is_empty()).then_some(SettingsChange {
            changes,
            lasts: self.lasts,
        })
    }

    /// Returns `true` if the changes include settings.
    pub fn has_settings(&self) -> bool {
        self.changes.iter().any(|change| change.setting().is_some())
    }

    /// Divides the change by what is in force: first what is as it was set, then what is not, with its value in force.
    pub fn compared(&self, policy: &Policy, settings: &Settings) -> (Vec<String>, Vec<String>) {
        let (mut done, mut left) = (Vec::new(), Vec::new());
        for change in &self.changes {
            let now = match change {
                Assignment::Grants(grantee, _) => {
                    Assignment::Grants(grantee.clone(), policy.of(grantee))
                }
                Assignment::Setting(setting) => Assignment::Setting(settings.get(setting.name())),
                Assignment::Default(name) => Assignment::Setting(settings.get(*name)),
            };
            match now.value() == change.value() {
                true => done.push(change.to_string()),
                false => left.push(format!("{change} (in force: {})", now.value())),
            }
        }
        (done, left)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Assignment> {
        self.changes.iter()
    }
}

/// Formats the changes for the log: `name=value name=value`.
impl std::fmt::Display for SettingsChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, change) in self.changes.iter().enumerate() {
            let space = if at > 0 { " " } else { "" };
            write!(f, "{space}{change}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::assignment::may_take_away;
    use super::*;

    #[test]
    fn aliases_and_spellings_parse_to_the_same_change() {
        let written = [("refreshWindow", "0007"), ("allow:uid:01", "verify,sign")];
        let change = SettingsChange::parse(written).unwrap();
        assert_eq!(
            change.to_string(),
            "refresh_window_ms=7 allow:uid:1=sign,verify"
        );
        assert!(change.may_take_away() && change.lasts().is_none());
    }

    #[test]
    fn duration_applies_to_all_changes_and_is_refused_for_a_new_keyspace() {
        let written = [("soft_ttl_ms", "9000"), ("for_ms", "5000")];
        let change = SettingsChange::parse(written).unwrap();
        assert_eq!(change.lasts().map(OverrideDuration::ms), Some(5_000));
        let refused = change.without_end().unwrap_err().to_string();
        assert!(
            refused.starts_with("`for_ms` is not a setting"),
            "{refused}"
        );
    }

    #[test]
    fn names_that_may_take_something_away_are_the_same_before_and_after_parsing() {
        for (name, value, takes_away) in [
            ("allow:uid:1", "sign", true),
            ("hard_ttl_ms", "1000", true),
            ("soft_ttl_ms", "1000", true),
            ("dek_lease_ms", "1000", true),
            ("maxInFlight", "1", false),
            ("refreshWindow", "1", false),
            ("for_ms", "1000", false),
        ] {
            let change = SettingsChange::parse([(name, value)]).unwrap();
            assert_eq!(change.may_take_away(), takes_away, "{name}");
            assert_eq!(may_take_away(name), takes_away, "{name}");
        }
    }

    #[test]
    fn refusals_name_the_setting() {
        for (name, value) in [
            ("soft", "1"),
            ("soft_ttl_ms", "soon"),
            ("allow:anonymous", "sing"),
            ("for_ms", "1"),
        ] {
            let error = SettingsChange::parse([(name, value)]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(value) || text.contains(name), "{text}");
        }
    }
}
