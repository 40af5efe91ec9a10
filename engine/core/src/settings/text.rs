//! Settings as text: names with their aliases, parsing and formatting of values.

use super::{OnSoftExpiry, Settings, SettingsError};
use alloc::string::{String, ToString};
use core::str::FromStr;

/// The value that means "follows soft_ttl_ms".
const AUTO: &str = "auto";

const NAMES: [&str; 10] = [
    "soft_ttl_ms",
    "hard_ttl_ms",
    "dek_lease_ms",
    "refresh_window_ms",
    "low_water_pct",
    "max_in_flight",
    "sign_wait_budget_us",
    "on_soft_expiry",
    "jitter_pct",
    "delete_wait_ms",
];

/// The aliases used by the runbook.
const ALIASES: [(&str, &str); 4] = [
    ("signWaitBudget", "sign_wait_budget_us"),
    ("refreshWindow", "refresh_window_ms"),
    ("LowWater", "low_water_pct"),
    ("maxInFlight", "max_in_flight"),
];

impl OnSoftExpiry {
    /// Returns the value as used in configuration and CLI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::ServeStale => "serve_stale",
        }
    }
}

impl Settings {
    /// Returns the canonical name of a setting, given that or an alias, or `None` if there is none.
    #[must_use]
    pub fn canonical_name(name: &str) -> Option<&'static str> {
        let name = ALIASES
            .iter()
            .find(|(alias, _)| *alias == name)
            .map_or(name, |(_, own)| *own);
        NAMES.into_iter().find(|known| *known == name)
    }

    /// Sets one setting from text. Accepts the names of the fields, and the runbook's aliases. `refresh_window_ms` also
    /// accepts `auto`: a fifth of `soft_ttl_ms`.
    ///
    /// Checks only the form of the value, since settings that depend on each other are set one after the other: call
    /// [`Settings::validate`] when all are set.
    ///
    /// # Errors
    /// No such setting, or a value that cannot be read. The settings are unchanged then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingsError> {
        let Some(own) = Self::canonical_name(name) else {
            let rule = "settings are soft_ttl_ms, hard_ttl_ms, dek_lease_ms, refresh_window_ms, \
                        low_water_pct, max_in_flight, sign_wait_budget_us, on_soft_expiry, \
                        jitter_pct, delete_wait_ms";
            return Err(SettingsError::new("setting", name, rule));
        };
        match own {
            "soft_ttl_ms" => self.soft_ttl_ms = number(own, value)?,
            "hard_ttl_ms" => self.hard_ttl_ms = number(own, value)?,
            "dek_lease_ms" => self.dek_lease_ms = number(own, value)?,
            "refresh_window_ms" if value == AUTO => self.refresh_window_ms = None,
            "refresh_window_ms" => self.refresh_window_ms = Some(number(own, value)?),
            "low_water_pct" => self.low_water_pct = percent(own, value)?,
            "max_in_flight" => self.max_in_flight = number(own, value)?,
            "sign_wait_budget_us" => self.sign_wait_budget_us = number(own, value)?,
            "jitter_pct" => self.jitter_pct = percent(own, value)?,
            "delete_wait_ms" => self.delete_wait_ms = number(own, value)?,
            _ => {
                self.on_soft_expiry = match value {
                    "wait" => OnSoftExpiry::Wait,
                    "serve_stale" => OnSoftExpiry::ServeStale,
                    _ => {
                        let rule = "on_soft_expiry is wait or serve_stale";
                        return Err(SettingsError::new(own, value, rule));
                    }
                }
            }
        }
        Ok(())
    }

    /// Iterates over every setting with its value in effect, for display.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        NAMES.into_iter().map(|name| (name, self.text(name)))
    }

    /// Iterates over every setting as it was set: [`Settings::set`] with these values restores the settings.
    pub fn iter_stored(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        self.iter().map(|(name, value)| match name {
            "refresh_window_ms" if self.refresh_window_ms.is_none() => (name, AUTO.to_string()),
            _ => (name, value),
        })
    }

    fn text(&self, name: &str) -> String {
        match name {
            "soft_ttl_ms" => self.soft_ttl_ms.to_string(),
            "hard_ttl_ms" => self.hard_ttl_ms.to_string(),
            "dek_lease_ms" => self.dek_lease_ms.to_string(),
            "refresh_window_ms" => self.refresh_window_ms().to_string(),
            "low_water_pct" => self.low_water_pct.to_string(),
            "max_in_flight" => self.max_in_flight.to_string(),
            "sign_wait_budget_us" => self.sign_wait_budget_us.to_string(),
            "jitter_pct" => self.jitter_pct.to_string(),
            "delete_wait_ms" => self.delete_wait_ms.to_string(),
            _ => self.on_soft_expiry.as_str().to_string(),
        }
    }
}

fn number<N: FromStr>(name: &'static str, value: &str) -> Result<N, SettingsError> {
    let rule = "the value is a whole number, without sign, unit or spaces, and not too large";
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(SettingsError::new(name, value, rule)),
    }
}

fn percent(name: &'static str, value: &str) -> Result<u8, SettingsError> {
    match number(name, value)? {
        percent @ 0..=100 => Ok(percent),
        _ => Err(SettingsError::new(
            name,
            value,
            "the value is a percentage, 0 to 100",
        )),
    }
}
