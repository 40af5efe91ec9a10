//! What a keyspace can be set to: a setting or a principal's grants, each with its value. Text is decoded to these once,
//! when a request or the file is read.

use std::fmt;

use keyway_core::{Setting, SettingName, Settings};

use super::CatalogueError;
use crate::policy::{Grantee, Rights};
use crate::time_limits::is_time_limit;

/// Prefix of a name that denotes a principal's grants.
const ALLOW: &str = "allow:";

/// What can be set. As text: the name of a setting, or `allow:PRINCIPAL`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The grants of a principal.
    Grants(Grantee),
    /// A setting.
    Setting(SettingName),
}

/// Returns whether a change of what has this name may take something away. For the names of requests that have not been
/// parsed yet; see [`Subject::may_take_away`].
pub fn may_take_away(name: &str) -> bool {
    name.starts_with(ALLOW) || SettingName::parse(name).is_some_and(is_time_limit)
}

impl Subject {
    /// Returns whether a change of it may take something away.
    pub(super) fn may_take_away(&self) -> bool {
        match self {
            Subject::Grants(_) => true,
            Subject::Setting(name) => is_time_limit(*name),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Grants(grantee) => write!(f, "{ALLOW}{grantee}"),
            Subject::Setting(name) => f.write_str(name.as_str()),
        }
    }
}

/// A subject with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Assignment {
    Grants(Grantee, Rights),
    Setting(Setting),
    /// A setting that is not set, and so has its default.
    Default(SettingName),
}

impl Assignment {
    /// Parses a name and a value of a request.
    ///
    /// Errors: an unknown setting or principal, or an invalid value.
    pub(super) fn parse(name: &str, value: &str) -> Result<Assignment, CatalogueError> {
        let bad = CatalogueError::Bad;
        if let Some(principal) = name.strip_prefix(ALLOW) {
            let grantee = Grantee::parse(principal).map_err(bad)?;
            let rights = Rights::parse(value).map_err(bad)?;
            return Ok(Assignment::Grants(grantee, rights));
        }
        if SettingName::parse(name).is_none() {
            return Err(not_a_setting(name));
        }
        Assignment::read_setting(name, value)
    }

    /// Reads a name and a value as they are stored. `None`: the subject is not set.
    ///
    /// Errors: an unknown setting, or an invalid value. A grant that this server does not know is kept.
    pub(super) fn read(name: &str, value: Option<String>) -> Result<Assignment, CatalogueError> {
        if let Some(principal) = name.strip_prefix(ALLOW) {
            let grantee = Grantee::read(principal.to_owned());
            let rights = value.map_or(Rights::NONE, Rights::read);
            return Ok(Assignment::Grants(grantee, rights));
        }
        match value {
            Some(value) => Assignment::read_setting(name, &value),
            None => SettingName::parse(name)
                .map(Assignment::Default)
                .ok_or_else(|| not_a_setting(name)),
        }
    }

    /// Reads a setting as it is stored.
    pub(super) fn read_setting(name: &str, value: &str) -> Result<Assignment, CatalogueError> {
        let setting = Setting::parse(name, value);
        setting
            .map(Assignment::Setting)
            .map_err(|error| CatalogueError::Bad(error.to_string()))
    }

    pub(super) fn subject(&self) -> Subject {
        match self {
            Assignment::Grants(grantee, _) => Subject::Grants(grantee.clone()),
            Assignment::Setting(setting) => Subject::Setting(setting.name()),
            Assignment::Default(name) => Subject::Setting(*name),
        }
    }

    /// Returns the setting, or `None` if it is a grant.
    pub(super) fn setting(&self) -> Option<Setting> {
        match self {
            Assignment::Grants(..) => None,
            Assignment::Setting(setting) => Some(*setting),
            Assignment::Default(name) => Some(Settings::default().get(*name)),
        }
    }

    /// Returns the value as it is stored, or `None` if the subject is not set.
    pub(super) fn stored(&self) -> Option<String> {
        match self {
            Assignment::Grants(_, Rights::NONE) | Assignment::Default(_) => None,
            _ => Some(self.value()),
        }
    }

    /// Returns the value in effect, as text.
    pub(super) fn value(&self) -> String {
        match self {
            Assignment::Grants(_, rights) => rights.to_string(),
            Assignment::Setting(setting) => setting.to_string(),
            Assignment::Default(name) => Settings::default().get(*name).to_string(),
        }
    }
}

/// Formats a change for the log: `name=value`.
impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.subject(), self.value())
    }
}

pub(super) fn not_a_setting(name: &str) -> CatalogueError {
    let names: Vec<_> = SettingName::ALL.iter().map(|name| name.as_str()).collect();
    CatalogueError::Bad(format!(
        "`{name}` is not a setting; use one of {} or allow:PRINCIPAL",
        names.join(", ")
    ))
}
